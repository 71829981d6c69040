//! `--pid-file`: where callers look for the number of a process.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use rustix::fs::{Mode, fchmod};

/// Whole or not at all: callers wait for it. Its folder may be one that others write to, as /tmp: the file beside it
/// is made anew, whatever has been put there.
///
/// # Errors
/// Names the file.
pub fn write(path: &Path, pid: i32) -> anyhow::Result<()> {
    replace(path, pid.to_string().as_bytes()).with_context(|| format!("--pid-file {}", path.display()))
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let beside = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    // Left by an earlier process with this number.
    let _ = fs::remove_file(&beside);
    // O_EXCL: no link is followed, and no file of another user's is taken.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&beside)?;
    let written = file.write_all(bytes).and_then(|()| {
        fchmod(&file, Mode::from_raw_mode(0o644))?;
        fs::rename(&beside, path)
    });
    written.inspect_err(|_| drop(fs::remove_file(&beside)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beside_it_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, victim) = (folder.path().join("web.pid"), folder.path().join("victim"));
        fs::write(&victim, "whole").unwrap();
        let beside = folder.path().join(format!(".web.pid.{}", std::process::id()));
        std::os::unix::fs::symlink(&victim, &beside).unwrap();
        std::os::unix::fs::symlink(&victim, folder.path().join("web.pid.new")).unwrap();
        write(&path, 4711).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "4711");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "whole");
        assert!(!beside.exists());
        let error = write(Path::new("/no/such/folder/pid"), 1).unwrap_err();
        assert!(format!("{error:#}").contains("--pid-file /no/such/folder/pid"), "{error:#}");
    }
}
