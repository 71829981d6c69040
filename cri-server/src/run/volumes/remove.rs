//! Removes folders that contain or contained volumes.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use crisp_operation::record;
use rustix::mount::{UnmountFlags, unmount};

/// Removes a folder that contains or contained volumes. Mounts in it are detached first, and their content is
/// kept: a privileged container can mount folders of the host into a volume.
///
/// # Errors
/// A mount cannot be detached, and then nothing is deleted; or a file cannot be deleted.
pub fn remove_folder(folder: &Path) -> io::Result<()> {
    let folder = match folder.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        folder => folder?,
    };
    // In reverse order: a later mount may be on top of an earlier one.
    for path in mounts_below(&folder)?.iter().rev() {
        unmount(path, UnmountFlags::DETACH)?;
    }
    record::remove_folder(&folder)
}

/// In the order in which they were mounted.
fn mounts_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mounts = fs::read("/proc/self/mountinfo")?;
    let paths =
        mounts.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    Ok(paths.map(unescape).filter(|path| path.starts_with(folder)).collect())
}

/// In proc_pid_mountinfo(5) a space is `\040`.
fn unescape(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let code = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| str::from_utf8(digits).ok());
        let code = code.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { after.get(3..).unwrap_or_default() } else { after };
    }
    OsString::from_vec(bytes).into()
}
