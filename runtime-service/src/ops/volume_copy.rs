//! Copies the image's files into marked mounts whose folder is empty (see [`crate::spec::copy_up`]).
//!
//! A folder has a mark while files are copied: if the server dies meanwhile, the next container begins anew.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use crisp_operation::{Cancel, record};
use rustix::fs::{FlockOperation, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::image_volume;
use crate::cause::Cause;
use crate::container::config::Mount;

/// The mark: an extended attribute that only root sees.
const UNDER_WAY: &str = "trusted.crisp.copying";

/// Whether a mount's folder waits for files. A folder that cannot be read does not: its mount reports the error.
pub(super) fn is_wanted(mount: &Mount) -> bool {
    is_under_way(&mount.host_path) || is_empty(&mount.host_path).unwrap_or(false)
}

/// Copies the files of the image at the mount point.
///
/// # Errors
/// A file cannot be read or written, `cancel` is set, the disk would be full, or another container does the same at this
/// moment. The folder is empty then.
pub(super) fn fill(view: &OwnedFd, mount: &Mount, cancel: &Cancel) -> Result<(), Cause> {
    let path = &mount.host_path;
    let failed = |errno: Errno| Cause::file(path)(errno.into());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
    // Held until the descriptor is closed.
    rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).map_err(failed)?;
    if is_under_way(path) {
        clear(path).map_err(Cause::file(path))?;
    } else if !is_empty(path).map_err(Cause::file(path))? {
        return Ok(());
    }
    // File systems without such attributes go without the mark.
    let _ = rustix::fs::fsetxattr(&folder, UNDER_WAY, b"1", XattrFlags::empty());
    let copied = image_volume::copy_whole(view, path, &mount.container_path, cancel);
    if let Err(error) = copied {
        // The mark stays on what cannot be cleared.
        if clear(path).is_ok() {
            let _ = rustix::fs::fremovexattr(&folder, UNDER_WAY);
        }
        return Err(error);
    }
    let _ = rustix::fs::fremovexattr(&folder, UNDER_WAY);
    Ok(())
}

fn is_under_way(path: &Path) -> bool {
    rustix::fs::getxattr(path, UNDER_WAY, &mut [0; 1]).is_ok()
}

fn is_empty(path: &Path) -> std::io::Result<bool> {
    Ok(fs::read_dir(path)?.next().is_none())
}

/// Removes everything in the folder.
fn clear(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            record::remove_folder(&entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::config::Propagation;

    fn mount(folder: &Path) -> Mount {
        Mount {
            container_path: "/data".into(),
            host_path: folder.to_owned(),
            image: None,
            readonly: false,
            recursive_readonly: false,
            propagation: Propagation::Private,
            mappings: None,
            options: Vec::new(),
        }
    }

    #[test]
    fn an_empty_folder_is_filled_once_and_a_broken_copy_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (root, volume) = (dir.path().join("root"), dir.path().join("volume"));
        fs::create_dir_all(root.join("data/sub")).unwrap();
        fs::create_dir(&volume).unwrap();
        fs::write(root.join("data/sub/file"), "text").unwrap();
        let view = rustix::fs::open(&root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let mount = mount(&volume);
        assert!(is_wanted(&mount));
        fill(&view, &mount, &Cancel::new()).unwrap();
        assert_eq!(fs::read_to_string(volume.join("sub/file")).unwrap(), "text");
        assert!(!is_wanted(&mount));

        fs::write(volume.join("sub/file"), "own").unwrap();
        fill(&view, &mount, &Cancel::new()).unwrap();
        assert_eq!(fs::read_to_string(volume.join("sub/file")).unwrap(), "own", "it is not empty");

        let cancelled = Cancel::new();
        cancelled.cancel();
        clear(&volume).unwrap();
        assert!(fill(&view, &mount, &cancelled).is_err());
        assert!(is_empty(&volume).unwrap() && !is_under_way(&volume));
        // A server that died has left a part.
        fs::write(volume.join("part"), "").unwrap();
        if rustix::fs::setxattr(&volume, UNDER_WAY, b"1", XattrFlags::empty()).is_err() {
            return;
        }
        assert!(is_wanted(&mount));
        fill(&view, &mount, &Cancel::new()).unwrap();
        assert!(!volume.join("part").exists() && volume.join("sub/file").exists() && !is_under_way(&volume));
    }
}
