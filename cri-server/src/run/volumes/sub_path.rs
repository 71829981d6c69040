//! Mounts a part of a volume. The content of a volume belongs to containers: a symbolic link in it must not
//! lead out, and must not be replaced between the check and the use. So the part is opened within the volume
//! (openat2(2), RESOLVE_BENEATH), and the opened file is mounted, not its path.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};

/// A file or folder in a volume, as a detached mount.
pub struct Part {
    tree: OwnedFd,
    is_folder: bool,
}

impl Part {
    /// Opens the file at `sub_path` of the volume. A missing folder is made with the permissions and the
    /// group of the volume.
    ///
    /// # Errors
    /// The path leads out of the volume, or the kernel's error.
    pub fn open(volume: &Path, sub_path: &str) -> io::Result<Self> {
        let root = rustix::fs::open(volume, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let found = match open_within(&root, Path::new(sub_path), OFlags::empty()) {
            Err(Errno::NOENT) => make_within(&root, Path::new(sub_path))?,
            Err(Errno::XDEV | Errno::LOOP) => {
                return Err(io::Error::other(format!("{sub_path} leads out of the volume")));
            }
            found => found?,
        };
        let is_folder = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode).is_dir();
        let flags =
            OpenTreeFlags::AT_EMPTY_PATH | OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        Ok(Self { tree: open_tree(&found, "", flags)?, is_folder })
    }

    /// Mounts it on `target`, which is made. This needs no access to the volume's file system.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn mount(self, target: &Path) -> io::Result<()> {
        make_target(target, self.is_folder)?;
        move_mount(self.tree.as_fd(), "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        Ok(())
    }
}

fn open_within(root: &OwnedFd, path: &Path, more: OFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | more;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
}

/// Makes nested folders, each in its open parent.
fn make_within(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let like = rustix::fs::fstat(root)?;
    let mut folder = open_within(root, Path::new("."), OFlags::DIRECTORY)?;
    let mut done = std::path::PathBuf::new();
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        done.push(name);
        folder = match open_within(root, &done, OFlags::DIRECTORY) {
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o700))?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = rustix::fs::openat(&folder, name, flags, Mode::empty())?;
                rustix::fs::fchown(&made, None, Some(rustix::fs::Gid::from_raw(like.st_gid)))?;
                rustix::fs::fchmod(&made, Mode::from_raw_mode(like.st_mode & 0o7777))?;
                made
            }
            folder => folder?,
        };
    }
    Ok(folder)
}

/// A mount point, without mounts of an earlier start of the container.
fn make_target(target: &Path, is_folder: bool) -> io::Result<()> {
    while unmount(target, UnmountFlags::DETACH).is_ok() {}
    super::remove::remove_folder(target)?;
    if let Some(above) = target.parent() {
        super::folder::private_folder(above)?;
    }
    if is_folder { fs::create_dir(target) } else { fs::File::create(target).map(drop) }
}

#[cfg(test)]
mod tests {
    use super::super::remove::remove_folder;
    use super::*;

    fn bind_sub_path(volume: &Path, sub_path: &str, target: &Path) -> io::Result<()> {
        Part::open(volume, sub_path)?.mount(target)
    }

    #[test]
    fn a_part_is_mounted_and_links_that_lead_out_are_refused() {
        crisp_skip::needs!();
        let folder = tempfile::tempdir().unwrap();
        let (volume, target) = (folder.path().join("v"), folder.path().join("targets/0"));
        fs::create_dir_all(volume.join("a")).unwrap();
        fs::write(volume.join("a/file"), "x").unwrap();
        std::os::unix::fs::symlink("a/file", volume.join("inside")).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("outside")).unwrap();
        std::os::unix::fs::symlink("../..", volume.join("up")).unwrap();
        bind_sub_path(&volume, "inside", &target).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "x");
        bind_sub_path(&volume, "new/folder", &target).unwrap();
        fs::write(target.join("y"), "z").unwrap();
        assert_eq!(fs::read_to_string(volume.join("new/folder/y")).unwrap(), "z");
        for path in ["outside", "outside/passwd", "up"] {
            let error = bind_sub_path(&volume, path, &target).unwrap_err().to_string();
            assert!(error.contains("leads out of the volume"), "{path}: {error}");
        }
        remove_folder(&folder.path().join("targets")).unwrap();
        assert!(volume.join("new/folder/y").exists());
    }
}
