//! Trees of files on disk, as deep and as wide as an archive makes them: walked, measured, checked and
//! deleted without recursion and with a handful of descriptors.
//!
//! A path in a tree may be longer than the kernel takes at once (a link in an archive can lead a thousand
//! levels down, and the next entry go on from there), so everything goes from directory to directory.

mod checksum;
mod cursor;
mod delete;
mod measure;
mod walk;

pub(crate) use checksum::{Attributes, Checksum, xattr_checksum};
pub(crate) use cursor::{open_beneath, open_root};
pub(crate) use delete::delete;
pub(crate) use measure::{Depth, Measured, measure, xattrs_of};
