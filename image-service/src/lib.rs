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
//! | [`Digest`] | the hash of some content; [`DiffId`] names a layer, [`ImageId`] an image |

pub mod digest;
pub mod reference;

pub use digest::{DiffId, Digest, ImageId, InvalidDigest};
pub use reference::{InvalidReference, Reference};
