//! Images as archives, in the formats of `docker save` and `docker load`, and root file systems without an
//! image.
//!
//! ```text
//!   save    layers ─> layer_tar ─> measured once, written once ─┐
//!           configuration, manifest, both indexes ──────────────┴─> one tar archive
//!   load    archive ─> spool ─> index of its entries ─> documents, layers ─> store, as a pull does
//!   import  archive ─> spool ─> one layer, a configuration made for it ─> store
//! ```
//!
//! A written archive is an OCI layout and a docker archive at once; both formats are read, compressed or not.
//! An unpacked layer does not keep the form of its archive, so an image that was pulled gets other digests
//! and another id when it is saved; an image that was loaded from such an archive keeps them.

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
