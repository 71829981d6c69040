//! The mount table of this process, see proc_pid_mountinfo(5).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `MAJOR:MINOR` of the file system.
    device: String,
    /// The folder of the file system that is mounted.
    root: PathBuf,
    /// The folder at which it is mounted.
    pub point: PathBuf,
}

/// The file system of a path, and the path within that file system: the same by whatever mount it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    pub device: String,
    pub path: PathBuf,
}

/// All mounts, in the order in which they were made.
///
/// # Errors
/// The kernel's error.
pub fn read() -> io::Result<Vec<Mount>> {
    Ok(parse(&fs::read("/proc/self/mountinfo")?))
}

/// The mount points at and below a folder, in the order in which they were mounted.
///
/// # Errors
/// The kernel's error.
pub fn points_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(read()?.into_iter().map(|mount| mount.point).filter(|point| point.starts_with(folder)).collect())
}

/// The location of an absolute path without links. None when no mount has it.
pub fn locate(mounts: &[Mount], path: &Path) -> Option<Location> {
    let over = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    // Of two mounts at one point, the later is on top.
    let mount = over.max_by_key(|mount| mount.point.components().count())?;
    let below = path.strip_prefix(&mount.point).ok()?;
    Some(Location { device: mount.device.clone(), path: mount.root.join(below) })
}

fn parse(table: &[u8]) -> Vec<Mount> {
    let mount = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ').skip(2);
        Some(Mount {
            device: String::from_utf8_lossy(fields.next()?).into_owned(),
            root: unescape(fields.next()?),
            point: unescape(fields.next()?),
        })
    };
    table.split(|byte| *byte == b'\n').filter_map(mount).collect()
}

/// A space is `\040`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_location_by_every_mount() {
        let table = b"20 1 8:1 / / rw - ext4 /dev/a rw\n\
            21 20 8:2 /lib /var/lib rw - ext4 /dev/b rw\n\
            22 21 8:2 /lib/v/my\\040data/a /var/lib/p/0 rw - ext4 /dev/b rw\n";
        let mounts = parse(table);
        let location =
            |device: &str, path: &str| Some(Location { device: device.to_owned(), path: path.into() });
        let of = |path: &str| locate(&mounts, Path::new(path));
        assert_eq!(of("/etc"), location("8:1", "/etc"));
        assert_eq!(of("/var/lib/v/my data/a/x"), location("8:2", "/lib/v/my data/a/x"));
        assert_eq!(of("/var/lib/p/0/x"), of("/var/lib/v/my data/a/x"));
        assert_eq!(locate(&mounts, Path::new("relative")), None);
    }
}
