//! Anonymous volumes: one folder per VOLUME of the image, holding what the image has at that place.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use crisp_executor::in_root;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Timestamps};
use rustix::io::Errno;

use crate::container::config::Mount;
use crate::layout::Folder;
use crate::spec::mounts::same_place;
use crate::stage::Cause;

/// Folders nested deeper than this are nobody's data.
const MAX_DEPTH: usize = 256;

/// The places that need a volume: those of the image that the request mounts nothing on.
#[must_use]
pub fn wanted(of_image: &[String], mounts: &[Mount]) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = of_image
        .iter()
        .map(|text| inside(Path::new(text)))
        // A volume on the root itself would be all of the container.
        .filter(|place| place != Path::new("/"))
        .filter(|place| !mounts.iter().any(|m| same_place(&m.container_path, place)))
        .collect();
    places.sort();
    places.dedup();
    places
}

/// Absolute and without `..`: an image's metadata must not reach outside (CVE-2022-23648).
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

/// Makes the volumes below the container's folder. Returns source and target of each.
///
/// # Errors
/// What the disk refuses.
pub fn make(view: &OwnedFd, folder: &Folder, places: &[PathBuf]) -> Result<Vec<(PathBuf, PathBuf)>, Cause> {
    let mut volumes = Vec::new();
    for (number, place) in places.iter().enumerate() {
        let path = folder.volume(number);
        fs::create_dir_all(&path).map_err(Cause::file(&path))?;
        copy_up(view, place, &path)?;
        volumes.push((path, place.clone()));
    }
    Ok(volumes)
}

fn copy_up(view: &OwnedFd, place: &Path, volume: &Path) -> Result<(), Cause> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let source = match in_root::open(view, &place.to_string_lossy(), flags) {
        Ok(source) => source,
        Err(error) if error.is_missing() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let target = rustix::fs::open(volume, flags | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Cause::file(volume)(e.into()))?;
    copy_folder(&source, &target, 0).map_err(|e| Cause::file(volume)(e.into()))
}

/// Copies what is in `source`, and its own owner and mode, to the empty folder `target`.
fn copy_folder(source: &OwnedFd, target: &OwnedFd, depth: usize) -> Result<(), Errno> {
    if depth > MAX_DEPTH {
        return Err(Errno::LOOP);
    }
    for entry in Dir::read_from(source)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        copy_entry(source, target, name, depth)?;
    }
    like(target, &rustix::fs::fstat(source)?)
}

fn copy_entry(source: &OwnedFd, target: &OwnedFd, name: &std::ffi::CStr, depth: usize) -> Result<(), Errno> {
    let stat = rustix::fs::statat(source, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::mkdirat(target, name, Mode::RWXU)?;
            let from = rustix::fs::openat(source, name, flags, Mode::empty())?;
            let to = rustix::fs::openat(target, name, flags, Mode::empty())?;
            copy_folder(&from, &to, depth + 1)
        }
        FileType::RegularFile => copy_file(source, target, name, &stat),
        FileType::Symlink => {
            let link = rustix::fs::readlinkat(source, name, Vec::new())?;
            rustix::fs::symlinkat(&link, target, name)?;
            own(target, name, &stat)
        }
        kind @ (FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo | FileType::Socket) => {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            rustix::fs::mknodat(target, name, kind, mode, stat.st_rdev)?;
            own(target, name, &stat)
        }
        FileType::Unknown => Ok(()),
    }
}

fn copy_file(
    source: &OwnedFd,
    target: &OwnedFd,
    name: &std::ffi::CStr,
    stat: &rustix::fs::Stat,
) -> Result<(), Errno> {
    let from =
        rustix::fs::openat(source, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let to = rustix::fs::openat(target, name, flags, Mode::RUSR | Mode::WUSR)?;
    let (mut from, to) = (fs::File::from(from), to);
    let mut into = fs::File::from(to.try_clone().map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?);
    std::io::copy(&mut from, &mut into).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    like(&to, stat)
}

/// Owner before mode: the kernel drops set-id bits when the owner changes.
fn like(target: &OwnedFd, stat: &rustix::fs::Stat) -> Result<(), Errno> {
    rustix::fs::fchown(target, Some(uid(stat)), Some(gid(stat)))?;
    rustix::fs::fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let time = |seconds, nanos| rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps {
        last_access: time(stat.st_atime as _, stat.st_atime_nsec as _),
        last_modification: time(stat.st_mtime as _, stat.st_mtime_nsec as _),
    };
    rustix::fs::futimens(target, &times)
}

fn own(target: impl AsFd, name: &std::ffi::CStr, stat: &rustix::fs::Stat) -> Result<(), Errno> {
    rustix::fs::chownat(target, name, Some(uid(stat)), Some(gid(stat)), AtFlags::SYMLINK_NOFOLLOW)
}

fn uid(stat: &rustix::fs::Stat) -> rustix::fs::Uid {
    rustix::fs::Uid::from_raw(stat.st_uid)
}

fn gid(stat: &rustix::fs::Stat) -> rustix::fs::Gid {
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
            readonly: false,
            recursive_readonly: false,
            propagation: Propagation::Private,
        };
        let of_image = ["/data/", "/logs", "logs", "/../../etc/x", "/"].map(str::to_owned);
        assert_eq!(wanted(&of_image, &[mount]), [PathBuf::from("/etc/x"), PathBuf::from("/logs")]);
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
        copy_up(&view, Path::new("/data"), &volume).unwrap();
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
        copy_up(&view, Path::new("/data"), volume.path()).unwrap();
        assert_eq!(fs::read_dir(volume.path()).unwrap().count(), 0);
    }
}
