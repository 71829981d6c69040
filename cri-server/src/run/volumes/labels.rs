//! Labels of a volume: an extended attribute of its folder, which only the host's root can read and write. It comes and
//! goes with the folder.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use rustix::fs::{XattrFlags, getxattr, removexattr, setxattr};
use rustix::io::Errno;

const ATTRIBUTE: &str = "trusted.crisp.labels";
/// XATTR_SIZE_MAX of the kernel. Most file systems take less.
const LONGEST: usize = 64 << 10;

pub type Labels = BTreeMap<String, String>;

/// The labels of a volume; none where the file system has no such attributes.
///
/// # Errors
/// As getxattr(2); an attribute that is not JSON.
pub fn read(volume: &Path) -> io::Result<Labels> {
    let mut bytes = vec![0; LONGEST];
    match getxattr(volume, ATTRIBUTE, &mut bytes[..]) {
        Ok(length) => Ok(serde_json::from_slice(&bytes[..length])?),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(Labels::new()),
        Err(errno) => Err(errno.into()),
    }
}

/// Sets the labels of a volume.
///
/// # Errors
/// The file system cannot keep them.
pub fn write(volume: &Path, labels: &Labels) -> io::Result<()> {
    let bytes = serde_json::to_vec(labels)?;
    let hint = |errno| match errno {
        Errno::OPNOTSUPP => "its file system keeps no attributes trusted.*",
        Errno::TOOBIG | Errno::NOSPC | Errno::RANGE => "they are too long for its file system",
        Errno::PERM => "only root on the host can set them",
        _ => "they cannot be kept",
    };
    setxattr(volume, ATTRIBUTE, &bytes, XattrFlags::empty()).map_err(|errno| {
        let error = io::Error::from(errno);
        io::Error::new(error.kind(), format!("the labels of the volume: {}: {error}", hint(errno)))
    })
}

/// Removes the labels of a folder that is not a volume yet: a killed command may have left them.
pub fn clear(folder: &Path) {
    let _ = removexattr(folder, ATTRIBUTE);
}
