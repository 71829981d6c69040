//! A disk that is full, or would be, is an error with the path, and its space is freed again.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crisp_image_service::Store;
use crisp_image_service::archive::{ArchiveError, Changes, Content};
use crisp_image_service::store::{IngestError, StoreError};
use crisp_image_service::unpack::Limits;

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

fn fill(options: &str, archive: Archive, expected: &str) {
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
        matches!(
            error,
            IngestError::DiskFull { .. }
                | IngestError::NoRoom { .. }
                | IngestError::Store(StoreError::DiskFull { .. })
        ),
        "{text}"
    );
    assert!(text.contains(expected) && text.contains("layers/.unpacking"), "{text}");
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
    let many = (0..40).fold(Archive::new(), |a, n| a.file(format!("d/{n}"), vec![5; 60_000]));
    fill("size=1m", many, "a tenth of what was free");
}

#[test]
fn no_inodes_left() {
    crisp_skip::needs!("mount");
    let many = (0..100).fold(Archive::new(), |a, n| a.file(format!("d/{n}"), ""));
    fill("nr_inodes=60", many, "the disk is full");
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

/// Gives the header of a file of so many bytes, then zeros, and calls `at` with the bytes given so far.
struct Announces<F> {
    header: Vec<u8>,
    given: u64,
    at: F,
}

impl<F: FnMut(u64)> Announces<F> {
    fn new(size: u64, at: F) -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_path("big").unwrap();
        header.set_mode(0o644);
        header.set_size(size);
        header.set_cksum();
        Self { header: header.as_bytes().to_vec(), given: 0, at }
    }
}

impl<F: FnMut(u64)> Read for Announces<F> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        (self.at)(self.given);
        let count = match self.header.len() {
            0 => into.len().min(64 << 10),
            length => into.len().min(length),
        };
        into[..count].fill(0);
        for (byte, of_header) in into.iter_mut().zip(self.header.drain(..count.min(self.header.len()))) {
            *byte = of_header;
        }
        self.given += count as u64;
        Ok(count)
    }
}

/// How long the file that an archive announced is on disk; None while it is not there.
fn length_unpacked(root: &Path) -> Option<u64> {
    let unpacking = fs::read_dir(root.join("layers/.unpacking")).ok()?;
    let files = unpacking.flatten().map(|layer| layer.path().join("fs/big"));
    files.filter_map(|file| Some(file.metadata().ok()?.len())).next()
}

#[test]
fn a_file_announced_larger_than_the_limit_is_refused_before_a_byte_is_written() {
    assert_eq!(Limits::default().bytes, 256 << 30);
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let (mut given, mut written) = (0, None);
    let archive = Announces::new((256 << 30) + 1, |so_far| {
        given = so_far;
        written = written.or(length_unpacked(folder.path()));
    });
    let error = store.ingest_layer(&diff_of(b"any"), archive).unwrap_err().to_string();
    assert!(error.contains(diff_of(b"any").as_str()), "{error}");
    let limit = "entry \"big\": the archive's files are larger than 274877906944 bytes together";
    assert!(error.contains(limit) && error.contains("raise --max-layer-bytes"), "{error}");
    assert_eq!(written, None, "the file was begun");
    assert!(given < 64 << 20, "{given} bytes were read");
}

#[test]
fn a_file_announced_larger_than_what_a_layer_may_take_is_refused_before_a_byte_is_written() {
    crisp_skip::needs!("mount");
    let folder = tempfile::tempdir().unwrap();
    let _small = Small::mount(folder.path(), "size=10m");
    let store = Store::open(folder.path()).unwrap();
    store.start_collection().unwrap();
    let mut written = None;
    let archive = Announces::new(19 << 19, |_| written = written.or(length_unpacked(folder.path())));
    let error = store.ingest_layer(&diff_of(b"any"), archive).unwrap_err();
    assert!(matches!(error, IngestError::NoRoom { needed: 9_961_472, .. }), "{error}");
    assert!(error.to_string().contains("fs/big: 9961472 bytes more are needed"), "{error}");
    assert_eq!(written, None, "the file was begun");
    // Most of the disk is for one layer.
    let tar = Archive::new().file("big", vec![1; 8 << 20]).tar();
    store.ingest_layer(&diff_of(&tar), &tar[..]).unwrap();
    drop(store);
}

#[test]
fn layers_that_are_unpacked_together_end_before_the_disk_is_full() {
    crisp_skip::needs!("mount");
    let folder = tempfile::tempdir().unwrap();
    let _small = Small::mount(folder.path(), "size=40m");
    let store = Store::open(folder.path()).unwrap();
    store.start_collection().unwrap();
    // Another one comes in between, which stands for others, and for all that containers write.
    let mut other = None;
    let mut least = u64::MAX;
    let archive = Announces::new(30 << 20, |given| {
        if given > 10 << 20 && other.is_none() {
            let tar = Archive::new().file("other", vec![1; 15 << 20]).tar();
            other = Some(store.ingest_layer(&diff_of(&tar), &tar[..]));
        }
        let stat = rustix::fs::statvfs(folder.path()).unwrap();
        least = least.min(stat.f_bavail * stat.f_frsize);
    });
    let error = store.ingest_layer(&diff_of(b"any"), archive).unwrap_err();
    assert!(matches!(error, IngestError::NoRoom { .. }), "{error}");
    other.unwrap().unwrap();
    assert!(least > 2 << 20, "{least} bytes were free");
    drop(store);
}

/// Ends a thread that asks for it.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Gives bytes without end.
struct Endless;

impl Read for Endless {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        into.fill(1);
        Ok(into.len())
    }
}

#[test]
fn an_archive_of_images_that_does_not_fit_leaves_a_tenth_of_the_disk() {
    crisp_skip::needs!("mount");
    let folder = tempfile::tempdir().unwrap();
    let _small = Small::mount(folder.path(), "size=20m");
    let store = Store::open(folder.path()).unwrap();
    store.start_collection().unwrap();
    let unused = Archive::new().file("unused", "").tar();
    store.ingest_layer(&diff_of(&unused), &unused[..]).unwrap();
    let below = store.commit_image(image("below", &[], "x")).unwrap();
    let upper = tempfile::tempdir().unwrap();
    fs::File::create(upper.path().join("large")).unwrap().set_len(40 << 20).unwrap();
    let changes = Changes::default();
    let refuse = |what: &str, act: &dyn Fn() -> ArchiveError| {
        let done = AtomicBool::new(false);
        let least = std::thread::scope(|scope| {
            // Also where `act` panics: the scope waits for the thread.
            let at_end = SetOnDrop(&done);
            let watch = scope.spawn(|| {
                let mut least = u64::MAX;
                while !done.load(Ordering::Relaxed) {
                    let stat = rustix::fs::statvfs(folder.path()).unwrap();
                    least = least.min(stat.f_bavail * stat.f_frsize);
                }
                least
            });
            let error = act();
            drop(at_end);
            assert!(matches!(error, ArchiveError::NoRoom { .. }), "{what}: {error}");
            assert!(error.to_string().contains("remove unused images"), "{what}: {error}");
            watch.join().unwrap()
        });
        assert!(least > 1 << 20, "{what}: {least} bytes were free");
        let new = folder.path().join("images/.new");
        assert_eq!(fs::read_dir(new).unwrap().count(), 0, "{what}");
    };
    refuse("load", &|| store.load(Endless).unwrap_err());
    assert!(!store.has_layer(&diff_of(&unused)), "what no image needs makes room");
    refuse("import", &|| store.import(Endless, None, &changes).unwrap_err());
    let tree = || (upper.path(), &Content::ALL);
    refuse("commit", &|| store.commit_tree(&below, tree(), None, &changes, "test").unwrap_err());
    drop(store);
}
