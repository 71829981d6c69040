//! `sizeLimit` of an emptyDir on disk: the size is checked periodically, as kubelet does, because only a
//! separate file system could enforce it.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crisp_operation::tree::{Cursor, is_dot, open_root};
use rustix::fs::{AtFlags, Dir, FileType, fstat, statat};

use super::super::manifest::{Volume, VolumeSource};
use super::Volumes;

/// Interval of the checks.
const TICK: Duration = Duration::from_secs(10);
/// A unit of `st_blocks`.
const BLOCK: u64 = 512;

/// A volume with its limit.
struct Limited {
    name: String,
    path: PathBuf,
    most: u64,
}

/// Waits until a volume is larger than its limit, and returns its name. Without limits, it waits forever.
pub async fn exceeded(all: &[Volume], volumes: &Volumes) -> String {
    let limited: Vec<Limited> = all.iter().filter_map(|volume| limited(volume, volumes)).collect();
    if limited.is_empty() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(TICK).await;
        for Limited { name, path, most } in &limited {
            let folder = path.clone();
            // In a thread for blocking work: a volume may have many files.
            match tokio::task::spawn_blocking(move || size(&folder)).await {
                Ok(Ok(size)) if size > *most => {
                    return format!("emptyDir {name} has {size} bytes, more than its sizeLimit of {most}");
                }
                Ok(Err(error)) => {
                    tracing::warn!(path = %path.display(), %error, "a volume's size is not known")
                }
                Ok(Ok(_)) | Err(_) => {}
            }
        }
    }
}

fn limited(volume: &Volume, volumes: &Volumes) -> Option<Limited> {
    // A limit of 0 means none, as for kubelet.
    let VolumeSource::EmptyDir { memory: false, size: Some(most @ 1..) } = volume.source else { return None };
    let path = volumes.path(&volume.name)?.to_owned();
    Some(Limited { name: volume.name.clone(), path, most })
}

/// Bytes on disk below the folder, each file once, without mounts. It walks by descriptors: a container can
/// make a tree that is deeper than any path, and can replace a folder with a link at any time.
fn size(folder: &Path) -> io::Result<u64> {
    let root = open_root(folder)?;
    let device = fstat(&root)?.st_dev;
    let (mut total, mut linked) = (0, BTreeSet::new());
    let mut cursor = Cursor::at(root);
    let mut left = vec![folders(&cursor, device, &mut total, &mut linked)?];
    while let Some(level) = left.last_mut() {
        match level.pop().map(|name| cursor.descend(name)) {
            Some(Ok(())) => left.push(folders(&cursor, device, &mut total, &mut linked)?),
            // It has been removed meanwhile.
            Some(Err(_)) => {}
            None => {
                left.pop();
                cursor.ascend()?;
            }
        }
    }
    Ok(total)
}

/// Adds the sizes in the current directory, and returns its subdirectories.
fn folders(
    cursor: &Cursor,
    device: u64,
    total: &mut u64,
    linked: &mut BTreeSet<u64>,
) -> io::Result<Vec<CString>> {
    let mut folders = Vec::new();
    for entry in Dir::read_from(cursor.directory())? {
        let entry = entry?;
        let name = entry.file_name();
        if is_dot(name) {
            continue;
        }
        let Ok(state) = statat(cursor.directory(), name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let is_folder = FileType::from_raw_mode(state.st_mode).is_dir();
        let is_counted = state.st_nlink > 1 && !is_folder && !linked.insert(state.st_ino);
        if state.st_dev != device || is_counted {
            continue;
        }
        *total += u64::try_from(state.st_blocks).unwrap_or_default() * BLOCK;
        if is_folder {
            folders.push(name.to_owned());
        }
    }
    Ok(folders)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_tree_deeper_than_any_path_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let mut cursor = Cursor::at(open_root(folder.path()).unwrap());
        let name = CString::new(vec![b'a'; 200]).unwrap();
        for _ in 0..30 {
            rustix::fs::mkdirat(cursor.directory(), &name, rustix::fs::Mode::RWXU).unwrap();
            cursor.descend(name.clone()).unwrap();
        }
        let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
        let file = rustix::fs::openat(cursor.directory(), "x", flags, rustix::fs::Mode::RUSR).unwrap();
        rustix::io::write(&file, &vec![1; 1 << 20]).unwrap();
        assert!(size(folder.path()).unwrap() >= 1 << 20);
        crisp_operation::record::remove_folder(folder.path()).unwrap();
    }

    #[test]
    fn a_limit_of_zero_is_none() {
        let volume =
            |size| Volume { name: "v".into(), source: VolumeSource::EmptyDir { memory: false, size } };
        let folder = tempfile::tempdir().unwrap();
        let of = |size| {
            limited(
                &volume(size),
                &Volumes::prepare(&[volume(size)], folder.path().join(format!("{size:?}"))).unwrap(),
            )
        };
        assert!(of(Some(0)).is_none() && of(Some(1)).is_some() && of(None).is_none());
    }

    #[test]
    fn files_count_once_and_links_lead_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::write(folder.path().join("a/x"), vec![1; 1 << 20]).unwrap();
        let before = size(folder.path()).unwrap();
        assert!(before >= 1 << 20, "{before}");
        fs::hard_link(folder.path().join("a/x"), folder.path().join("y")).unwrap();
        std::os::unix::fs::symlink("/usr", folder.path().join("z")).unwrap();
        let after = size(folder.path()).unwrap();
        assert!(after < before + (1 << 16), "{after}");
    }
}
