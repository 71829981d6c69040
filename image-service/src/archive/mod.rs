//! Images as files: what `docker save` and `docker load` have, and root file systems without an image.
//!
//! ```text
//!   save    layers ─> layer_tar ─> measured once, written once ─┐
//!           configuration, manifest, both indexes ──────────────┴─> one tar archive
//!   load    archive ─> spool ─> index of its entries ─> documents, layers ─> store, as a pull does
//!   import  archive ─> spool ─> one layer, a configuration made for it ─> store
//! ```
//!
//! The archive that is written is an OCI layout and a docker archive at once; both are read, also compressed.
//! Unpacked layers do not say how their archives were put together, so an image that was pulled gets other digests,
//! and another id, when it is saved; one that was loaded from such an archive keeps them.

mod entries;
mod error;
mod image;
mod layer_tar;
mod load;
mod save;
mod spool;

pub use error::ArchiveError;
pub use image::Changes;
pub use layer_tar::Content;
