//! Images: references, registries and their mirrors, pulls, and the layer store.
//!
//! ```text
//!   PullImage ──> pull ──────> mirror (hosts.toml, failover, resume) ──> registry (HTTP, logins)
//!                  │                                            │ compressed bytes, verified
//!                  └──────────── store <── unpack <─────────────┘
//!                                  └─ images/ (records), layers/<diff id>/ (read-only trees)
//! ```
//!
//! | type | what it is |
//! |---|---|
//! | [`ImageService`] | all of it behind one handle |
//! | [`Reference`] | a complete image name: registry, repository, tag or digest |
//! | [`Endpoint`](mirror::Endpoint) | a server with a registry's content, and the reason for using it |
//! | [`PullError`] | a failed pull: the stage, and each endpoint's reason |
//! | [`Store`] | images and their unpacked layers on disk |
//! | [`Image`] | the data of one image; [`Lease`] keeps its layers in place |
//! | [`archive`] | images as files: save, load, import |
//! | [`Digest`] | the hash of some content; [`DiffId`] names a layer, [`ImageId`] an image |
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use crisp_image_service::{ImageConfig, ImageService, PullRequest};
//! let metrics = crisp_metrics::Metrics::new("0.1.0")?;
//! let config = ImageConfig { root: "/var/lib/crisp".into(), ..ImageConfig::default() };
//! let images = ImageService::open(config, &metrics).await?;
//! let request = PullRequest { reference: "busybox".to_owned(), auth: None, pod: None };
//! let id = images.pull(&request, None).await?;
//! let image = images.find(id.as_str())?;
//! let lease = images.lease(&image.lower)?;
//! println!("{} is in {:?}", image.id, lease.layer_paths());
//! # Ok(())
//! # }
//! ```

#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

pub mod archive;
mod background;
pub mod digest;
mod excerpt;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
pub mod layout;
mod manifest;
pub mod mirror;
pub mod pull;
pub mod reference;
pub mod registry;
mod rpc;
mod service;
pub mod store;
mod tree;
pub mod unpack;

pub use digest::{DiffId, Digest, ImageId, InvalidDigest};
pub use manifest::{ManifestError, Platform};
pub use mirror::Resolution;
pub use pull::{PullError, PullOptions, PullProgress, PullRequest};
pub use reference::{InvalidReference, Reference};
pub use registry::{Auth, ErrorKind, Secret};
pub use service::{ImageConfig, ImageService, OpenError, RemoveError, ResolveError};
pub use store::{FindError, FsUsage, Image, Lease, Removed, Store, StoreConfig, StoreError};
pub use tree::ReadRate;
pub use unpack::{Limits, TarError};
