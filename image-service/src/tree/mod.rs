//! Trees of files on disk, of any depth and width: walked, measured and checked with
//! [`crisp_operation::tree`].

mod checksum;
mod measure;
mod read_rate;
mod walk;

pub(crate) use checksum::{Attributes, Checksum, xattr_checksum};
pub(crate) use measure::{Depth, Measured, measure, xattrs_of};
pub use read_rate::ReadRate;
pub(crate) use walk::{Found, walk_sorted};
