//! Mount points that are made before the start.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::path::Arg as _;

use crate::in_root::{self, Kind};

/// Makes a mount point in an [assembled](super::assemble) root if it is missing, as the start would: a folder
/// with mode 0755, or an empty file with 0644.
///
/// # Errors
/// ELOOP: there is a link in the path. Where that leads to is known when the mounts before it are attached.
pub fn make_mount_point(root: impl AsFd, path: &Path, kind: Kind) -> Result<(), Errno> {
    path.into_with_c_str(|path| in_root::find_or_make_without_links(root.as_fd(), path, kind).map(drop))
}
