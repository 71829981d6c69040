//! Images: references, registries and their mirrors, pulls, and the layer store.
//!
//! ```text
//!   PullImage ──> pull ──resolve──> mirror (hosts.toml) ──> registry (HTTP, auth, retries)
//!                  │                                            │ compressed bytes, verified
//!                  └──────────── store <── unpack <─────────────┘
//!                                  └─ images/ (records), layers/<diff id>/ (read-only trees)
//! ```
//!
//! | type | what it is |
//! |---|---|
//! | [`Reference`] | a complete image name: registry, repository, tag or digest |
//! | [`Store`] | images and their unpacked layers on disk |
//! | [`Image`] | what is known of one image; [`Lease`] keeps its layers in place |
//! | [`Digest`] | the hash of some content; [`DiffId`] names a layer, [`ImageId`] an image |

pub mod digest;
mod gc;
pub mod layout;
pub mod mirror;
pub mod reference;
pub mod registry;
pub mod store;
pub mod unpack;

pub use digest::{DiffId, Digest, ImageId, InvalidDigest};
pub use reference::{InvalidReference, Reference};
pub use store::{Image, Lease, Store};
