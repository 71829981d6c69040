//! Anonymous volumes: one folder per VOLUME of the image, with the image's files at that path.

use std::ffi::{CStr, OsStr};
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use crisp_executor::in_root;
use crisp_operation::Cancel;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, Timestamps, XattrFlags};
use rustix::io::Errno;

use crate::cause::Cause;
use crate::container::config::Mount;
use crate::layout::Folder;
use crate::spec::mounts::same_place;

/// Folders nested deeper than this are refused.
const MAX_DEPTH: usize = 256;
/// Bytes between two checks for cancellation and free space.
const CHUNK: u64 = 16 << 20;
/// One of so many parts of the free blocks and inodes stays free: a full disk stops every container of the node.
const KEPT: u64 = 10;
/// The kernel's limits: XATTR_LIST_MAX and XATTR_SIZE_MAX.
const MAX_ATTRIBUTE: usize = 64 << 10;

/// Volumes of one image. A start passes a descriptor for each, and the limit for descriptors is about 250.
const MAX_VOLUMES: usize = 200;

/// The paths that need a volume: those that the image names and on which the request mounts nothing.
///
/// # Errors
/// [`Cause::Volumes`]: the image names more than can be mounted.
pub(super) fn places(of_image: &[String], mounts: &[Mount]) -> Result<Vec<PathBuf>, Cause> {
    if of_image.len() > MAX_VOLUMES {
        return Err(Cause::Volumes { count: of_image.len(), most: MAX_VOLUMES });
    }
    let mut places: Vec<PathBuf> = of_image
        .iter()
        .map(|text| inside(Path::new(text)))
        // A volume on the root would hide the whole container.
        .filter(|place| place != Path::new("/"))
        .filter(|place| !mounts.iter().any(|m| same_place(&m.container_path, place)))
        .collect();
    places.sort();
    places.dedup();
    Ok(places)
}

/// Absolute and without `..`: an image's metadata must not refer to files outside (CVE-2022-23648).
fn inside(path: &Path) -> PathBuf {
    let mut place = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => place.push(name),
            Component::ParentDir => {
                place.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    place
}

/// Makes a volume below the container's folder for each path, with the image's files there. What another volume
/// hides is not copied; links may still make one folder of the image many volumes.
///
/// # Errors
/// A file cannot be read or written, `cancel` is set, or the disk would be full.
pub(super) fn fill(
    view: &OwnedFd,
    folder: &Folder,
    places: &[PathBuf],
    cancel: &Cancel,
) -> Result<(), Cause> {
    let mut kept = None;
    for (number, place) in places.iter().enumerate() {
        cancel.check()?;
        let path = folder.volume(number);
        fs::create_dir_all(&path).map_err(Cause::file(&path))?;
        // Of what is free before the first of them.
        let kept = match kept {
            Some(kept) => kept,
            None => *kept.insert(kept_of(&path)?),
        };
        copy_up(view, &path, place, &Limits { places, cancel, kept })?;
    }
    Ok(())
}

/// The blocks and inodes that stay free on the file system of the folder.
fn kept_of(folder: &Path) -> Result<[u64; 2], Cause> {
    let stat = rustix::fs::statvfs(folder).map_err(|e| Cause::file(folder)(e.into()))?;
    Ok([stat.f_bavail / KEPT, stat.f_favail / KEPT])
}

/// Copies the image's files at `place` into the empty folder `volume`. Returns false when the image has no such
/// folder.
///
/// # Errors
/// As [`fill`].
pub(super) fn copy_whole(
    view: &OwnedFd,
    volume: &Path,
    place: &Path,
    cancel: &Cancel,
) -> Result<bool, Cause> {
    copy_up(view, volume, place, &Limits { places: &[], cancel, kept: kept_of(volume)? })
}

fn copy_up(view: &OwnedFd, volume: &Path, place: &Path, limits: &Limits<'_>) -> Result<bool, Cause> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let source = match in_root::open(view, &place.to_string_lossy(), flags) {
        Ok(source) => source,
        Err(error) if error.is_missing() => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let target = rustix::fs::open(volume, flags | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Cause::file(volume)(e.into()))?;
    Copy { volume, limits }.folder(&source, &target, place, 0)?;
    Ok(true)
}

/// The parts that a copy leaves out, and where it stops.
struct Limits<'a> {
    /// Of all volumes.
    places: &'a [PathBuf],
    cancel: &'a Cancel,
    /// See [`kept_of`].
    kept: [u64; 2],
}

/// A copy of the image's files into a volume.
struct Copy<'a> {
    volume: &'a Path,
    limits: &'a Limits<'a>,
}

impl Copy<'_> {
    fn failed(&self) -> impl Fn(Errno) -> Cause + '_ {
        |errno| Cause::file(self.volume)(errno.into())
    }

    fn check(&self, target: impl AsFd) -> Result<(), Cause> {
        self.limits.cancel.check()?;
        let stat = rustix::fs::fstatvfs(target).map_err(self.failed())?;
        let [blocks, inodes] = self.limits.kept;
        // File systems without a fixed number of inodes have none free.
        if stat.f_bavail < blocks || stat.f_favail < inodes {
            return Err(Cause::NoRoomForVolumes { path: self.volume.to_owned() });
        }
        Ok(())
    }

    /// Copies the content of `source`, which is `place` of the image, its owner and its mode to the empty folder
    /// `target`.
    fn folder(&self, source: &OwnedFd, target: &OwnedFd, place: &Path, depth: usize) -> Result<(), Cause> {
        if depth > MAX_DEPTH {
            return Err(self.failed()(Errno::LOOP));
        }
        for entry in Dir::read_from(source).map_err(self.failed())? {
            self.check(target)?;
            let entry = entry.map_err(self.failed())?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") {
                self.entry(source, target, name, place, depth)?;
            }
        }
        rustix::fs::fstat(source).and_then(|stat| like(source, target, &stat)).map_err(self.failed())
    }

    fn entry(
        &self,
        source: &OwnedFd,
        target: &OwnedFd,
        name: &CStr,
        place: &Path,
        depth: usize,
    ) -> Result<(), Cause> {
        let stat = rustix::fs::statat(source, name, AtFlags::SYMLINK_NOFOLLOW).map_err(self.failed())?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let (from, to) = subfolders(source, target, name).map_err(self.failed())?;
                let place = place.join(OsStr::from_bytes(name.to_bytes()));
                if self.limits.places.contains(&place) {
                    return like(&from, &to, &stat).map_err(self.failed());
                }
                self.folder(&from, &to, &place, depth + 1)
            }
            FileType::RegularFile => self.file(source, target, name, &stat),
            kind => special(source, target, name, kind, &stat).map_err(self.failed()),
        }
    }

    fn file(&self, source: &OwnedFd, target: &OwnedFd, name: &CStr, stat: &Stat) -> Result<(), Cause> {
        let (mut from, mut to) = open_files(source, target, name).map_err(self.failed())?;
        loop {
            self.check(target)?;
            let copied = std::io::copy(&mut (&mut from).take(CHUNK), &mut to);
            if copied.map_err(Cause::file(self.volume))? == 0 {
                break;
            }
        }
        like(&from, &to, stat).map_err(self.failed())
    }
}

fn subfolders(source: &OwnedFd, target: &OwnedFd, name: &CStr) -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::mkdirat(target, name, Mode::RWXU)?;
    let from = rustix::fs::openat(source, name, flags, Mode::empty())?;
    Ok((from, rustix::fs::openat(target, name, flags, Mode::empty())?))
}

fn open_files(source: &OwnedFd, target: &OwnedFd, name: &CStr) -> Result<(fs::File, fs::File), Errno> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let from = rustix::fs::openat(source, name, OFlags::RDONLY | flags, Mode::empty())?;
    let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | flags;
    let to = rustix::fs::openat(target, name, create, Mode::RUSR | Mode::WUSR)?;
    Ok((from.into(), to.into()))
}

/// Copies files other than folders and regular files.
fn special(
    source: &OwnedFd,
    target: &OwnedFd,
    name: &CStr,
    kind: FileType,
    stat: &Stat,
) -> Result<(), Errno> {
    match kind {
        FileType::Symlink => {
            let link = rustix::fs::readlinkat(source, name, Vec::new())?;
            rustix::fs::symlinkat(&link, target, name)?;
        }
        FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo | FileType::Socket => {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            rustix::fs::mknodat(target, name, kind, mode, stat.st_rdev)?;
        }
        FileType::Directory | FileType::RegularFile | FileType::Unknown => return Ok(()),
    }
    own(target, name, stat)
}

/// Gives a folder or file the owner, the mode, the attributes and the times of another one. Sets the owner first: when it changes, the kernel drops set-id bits and file capabilities.
pub(super) fn like(source: impl AsFd, target: impl AsFd, stat: &Stat) -> Result<(), Errno> {
    rustix::fs::fchown(&target, Some(uid(stat)), Some(gid(stat)))?;
    copy_attributes(&source, &target)?;
    rustix::fs::fchmod(&target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let time = |seconds, nanos| rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps {
        last_access: time(stat.st_atime as _, stat.st_atime_nsec as _),
        last_modification: time(stat.st_mtime as _, stat.st_mtime_nsec as _),
    };
    rustix::fs::futimens(target, &times)
}

/// Copies file capabilities, access control lists and the user's own attributes. A label of SELinux is that of the
/// container's files, not of the image's; and `trusted.*` belongs to the host, which keeps the labels of volumes there.
fn copy_attributes(source: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    let mut names = vec![0; MAX_ATTRIBUTE];
    let length = match rustix::fs::flistxattr(&source, &mut names) {
        Err(Errno::OPNOTSUPP) => 0,
        length => length?,
    };
    if length == 0 {
        return Ok(());
    }
    let mut value = vec![0; MAX_ATTRIBUTE];
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name == b"security.selinux" || name.starts_with(b"trusted.") {
            continue;
        }
        match rustix::fs::fgetxattr(&source, name, &mut value) {
            Ok(length) => rustix::fs::fsetxattr(&target, name, &value[..length], XattrFlags::empty())?,
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn own(target: impl AsFd, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    rustix::fs::chownat(target, name, Some(uid(stat)), Some(gid(stat)), AtFlags::SYMLINK_NOFOLLOW)
}

fn uid(stat: &Stat) -> rustix::fs::Uid {
    rustix::fs::Uid::from_raw(stat.st_uid)
}

fn gid(stat: &Stat) -> rustix::fs::Gid {
    rustix::fs::Gid::from_raw(stat.st_gid)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;
    use crate::container::config::Propagation;

    #[test]
    fn requested_mounts_replace_volumes_and_none_leaves_the_root() {
        let mount = Mount {
            container_path: "/data".into(),
            host_path: "/srv".into(),
            image: None,
            readonly: false,
            recursive_readonly: false,
            propagation: Propagation::Private,
            mappings: None,
            options: Vec::new(),
        };
        let of_image = ["/data/", "/logs", "logs", "/../../etc/x", "/"].map(str::to_owned);
        assert_eq!(places(&of_image, &[mount]).unwrap(), [PathBuf::from("/etc/x"), PathBuf::from("/logs")]);
    }

    fn limits<'a>(places: &'a [PathBuf], cancel: &'a Cancel) -> Limits<'a> {
        Limits { places, cancel, kept: [0, 0] }
    }

    #[test]
    fn what_the_image_has_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let (root, volume) = (dir.path().join("root"), dir.path().join("volume"));
        fs::create_dir_all(root.join("data/sub")).unwrap();
        fs::create_dir(&volume).unwrap();
        fs::write(root.join("data/sub/file"), "text").unwrap();
        fs::set_permissions(root.join("data/sub/file"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(root.join("data"), fs::Permissions::from_mode(0o1777)).unwrap();
        symlink("/etc/passwd", root.join("data/link")).unwrap();
        let view = rustix::fs::open(&root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        rustix::fs::setxattr(root.join("data/sub/file"), "user.note", b"kept", XattrFlags::empty()).unwrap();
        let of_host =
            |path: &Path| rustix::fs::setxattr(path, "trusted.crisp.labels", b"{}", XattrFlags::empty());
        let is_set = of_host(&root.join("data")).is_ok();
        assert!(is_set || !crisp_skip::is_root());
        assert!(copy_up(&view, &volume, Path::new("/data"), &limits(&[], &Cancel::new())).unwrap());
        let mut value = [0; 16];
        assert_eq!(rustix::fs::getxattr(volume.join("sub/file"), "user.note", &mut value), Ok(4));
        let label = rustix::fs::getxattr(&volume, "trusted.crisp.labels", &mut value);
        assert_eq!(label, Err(Errno::NODATA), "an image would choose the labels of a user's volume");
        assert_eq!(fs::read_to_string(volume.join("sub/file")).unwrap(), "text");
        assert_eq!(fs::metadata(volume.join("sub/file")).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(fs::metadata(&volume).unwrap().mode() & 0o7777, 0o1777);
        assert_eq!(fs::read_link(volume.join("link")).unwrap(), Path::new("/etc/passwd"));
    }

    #[test]
    fn a_place_that_the_image_does_not_have_is_an_empty_volume() {
        let dir = tempfile::tempdir().unwrap();
        let view = rustix::fs::open(dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let volume = tempfile::tempdir().unwrap();
        let copied = copy_up(&view, volume.path(), Path::new("/data"), &limits(&[], &Cancel::new()));
        assert!(!copied.unwrap());
        assert_eq!(fs::read_dir(volume.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_volume_below_another_one_is_copied_once() {
        let (dir, volume) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(dir.path().join("data/sub/deep")).unwrap();
        fs::create_dir_all(dir.path().join("data/other")).unwrap();
        fs::write(dir.path().join("data/sub/file"), "text").unwrap();
        fs::write(dir.path().join("data/other/file"), "text").unwrap();
        let view = rustix::fs::open(dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let places = ["/data", "/data/sub"].map(PathBuf::from);
        copy_up(&view, volume.path(), Path::new("/data"), &limits(&places, &Cancel::new())).unwrap();
        assert_eq!(fs::read_dir(volume.path().join("sub")).unwrap().count(), 0);
        assert!(volume.path().join("other/file").exists());
    }

    #[test]
    fn a_full_disk_stops_a_copy() {
        let volume = tempfile::tempdir().unwrap();
        let cancel = Cancel::new();
        let copy =
            Copy { volume: volume.path(), limits: &Limits { kept: [u64::MAX, 0], ..limits(&[], &cancel) } };
        let folder =
            rustix::fs::open(volume.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        assert!(matches!(copy.check(&folder), Err(Cause::NoRoomForVolumes { .. })));
    }
}
