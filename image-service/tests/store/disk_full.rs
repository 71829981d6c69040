//! A full disk is an error with the path, and its space is freed again.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crisp_image_service::Store;
use crisp_image_service::store::{IngestError, StoreError};

use crate::archive::Archive;
use crate::fixture::{diff_of, image, open};

/// A small file system of its own, for as long as this lives.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(at: &'a Path, options: &str) -> Self {
        let done =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "small"]).arg(at).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Self(at)
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        // The deleter may be in it for another moment.
        let deadline = Instant::now() + Duration::from_secs(10);
        while rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::empty()).is_err() {
            assert!(Instant::now() < deadline, "cannot unmount {}", self.0.display());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn fill(options: &str, archive: Archive) {
    let folder = tempfile::tempdir().unwrap();
    let _small = Small::mount(folder.path(), options);
    let store = Store::open(folder.path()).unwrap();
    store.start_collection().unwrap();
    let free = || rustix::fs::statvfs(folder.path()).map(|s| (s.f_bfree, s.f_ffree)).unwrap();
    let before = free();
    let tar = archive.tar();
    let diff = diff_of(&tar);
    let error = store.ingest_layer(&diff, &tar[..]).unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, IngestError::DiskFull { .. } | IngestError::Store(StoreError::DiskFull { .. })),
        "{text}"
    );
    assert!(text.contains("the disk is full") && text.contains("layers/.unpacking"), "{text}");
    assert!(!store.has_layer(&diff));
    let deadline = Instant::now() + Duration::from_secs(10);
    while free() != before {
        assert!(Instant::now() < deadline, "space was not given back: {:?}, before {before:?}", free());
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(store);
}

#[test]
fn no_blocks_left() {
    crisp_skip::needs!("mount");
    fill("size=1m", (0..40).fold(Archive::new(), |a, n| a.file(format!("d/{n}"), vec![5; 60_000])));
}

#[test]
fn no_inodes_left() {
    crisp_skip::needs!("mount");
    fill("nr_inodes=60", (0..100).fold(Archive::new(), |a, n| a.file(format!("d/{n}"), "")));
}

#[test]
fn no_space_for_the_record() {
    crisp_skip::needs!("mount");
    let folder = tempfile::tempdir().unwrap();
    let _small = Small::mount(folder.path(), "size=1m");
    let store = Store::open(folder.path()).unwrap();
    store.start_collection().unwrap();
    let ballast = folder.path().join("ballast");
    let filled = fs::write(&ballast, vec![0; 2 << 20]);
    assert!(filled.is_err());
    let error = store.commit_image(image("a", &[], "x")).unwrap_err();
    assert!(matches!(error, StoreError::DiskFull { .. }), "{error}");
    assert!(store.list().is_empty() && store.find("a").is_err());
    fs::remove_file(&ballast).unwrap();
    store.commit_image(image("a", &[], "x")).unwrap();
    drop(store);
    let store = open(folder.path());
    assert!(store.find("a").is_ok());
}

#[test]
fn a_pull_that_filled_the_disk_leaves_nothing_on_it() {
    crisp_skip::needs!("mount");
    let folder = tempfile::tempdir().unwrap();
    let _small = Small::mount(folder.path(), "size=2m");
    let store = Store::open(folder.path()).unwrap();
    store.start_collection().unwrap();
    let ingest = |archive: Archive| {
        let tar = archive.tar();
        let diff = diff_of(&tar);
        store.ingest_layer(&diff, &tar[..]).map(|_| diff)
    };
    let abandoned = ingest(Archive::new().file("a", vec![1; 400_000])).unwrap();
    let mine = ingest(Archive::new().file("b", vec![2; 400_000])).unwrap();
    let hold = store.hold(std::slice::from_ref(&mine));
    ingest(Archive::new().file("c", vec![3; 1_900_000])).unwrap_err();
    assert!(!store.has_layer(&abandoned), "no pull needs it");
    assert!(store.has_layer(&mine), "the pull may have another use for it");
    drop(hold);
    let deadline = Instant::now() + Duration::from_secs(10);
    while store.has_layer(&mine) {
        assert!(Instant::now() < deadline, "the failed pull's layer stays on the full disk");
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(store);
}
