use std::os::unix::fs::symlink;

use super::*;
use crate::in_root::{self, Kind};

const SOON: Duration = Duration::from_secs(5);

fn folder() -> Option<tempfile::TempDir> {
    crisp_skip::needs!();
    Some(tempfile::tempdir().unwrap())
}

#[test]
fn folders_files_and_links_are_told_apart() {
    let Some(folder) = folder() else { return };
    std::fs::write(folder.path().join("file"), "x").unwrap();
    symlink("file", folder.path().join("link")).unwrap();
    for (name, file) in [("file", true), ("link", true), (".", false)] {
        assert_eq!(open(&folder.path().join(name), Options::default(), SOON).unwrap().file, file, "{name}");
    }
}

#[test]
fn a_missing_path_is_named_with_its_position() {
    let Some(folder) = folder() else { return };
    let gone = folder.path().join("gone");
    let requests = vec![(folder.path().to_owned(), Options::default()), (gone.clone(), Options::default())];
    let (index, error) = open_all(requests, SOON).unwrap_err();
    assert_eq!(index, 1);
    assert_eq!(error.to_string(), format!("host path {gone:?} does not exist"));
}

#[test]
fn a_missing_path_is_created_when_that_is_asked_for() {
    use std::os::unix::fs::PermissionsExt as _;

    let Some(folder) = folder() else { return };
    let create = Options { create: true, readonly: true, ..Options::default() };
    let path = folder.path().join("a/b/../c");
    assert!(!open(&path, create, SOON).unwrap().file);
    for made in ["a", "a/b", "a/c"] {
        let metadata = std::fs::metadata(folder.path().join(made)).unwrap();
        assert_eq!((metadata.is_dir(), metadata.permissions().mode() & 0o7777), (true, 0o755), "{made}");
    }
    std::fs::write(folder.path().join("file"), "x").unwrap();
    assert!(open(&folder.path().join("file"), create, SOON).unwrap().file, "what exists stays");
    let error = open(&folder.path().join("file/below"), create, SOON).unwrap_err().to_string();
    assert!(error.contains("file/below"), "{error}");
    symlink("nowhere", folder.path().join("dangling")).unwrap();
    assert!(open(&folder.path().join("dangling"), create, SOON).is_err());
}

#[test]
fn read_only_is_kept_and_the_host_side_is_not_touched() {
    let Some(folder) = folder() else { return };
    for options in [
        Options { readonly: true, ..Options::default() },
        Options { recursive: true, recursive_readonly: true, ..Options::default() },
    ] {
        let source = open(folder.path(), options, SOON).unwrap();
        assert!(in_root::find_or_make(source.mount.as_fd(), c"x", Kind::Folder).is_err());
    }
    let source = open(folder.path(), Options::default(), SOON).unwrap();
    in_root::find_or_make(source.mount.as_fd(), c"x", Kind::Folder).unwrap();
    assert!(folder.path().join("x").is_dir());
}

#[test]
fn propagation_from_a_private_mount_is_refused() {
    let Some(_folder) = folder() else { return };
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    // /proc is a separate mount on every host.
    let proc = table.lines().find(|line| line.contains(" /proc rw")).unwrap();
    let result = open(
        Path::new("/proc"),
        Options { propagation: Propagation::Bidirectional, ..Options::default() },
        SOON,
    );
    match result {
        Ok(_) => assert!(proc.contains(" shared:")),
        Err(error) => {
            assert!(!proc.contains(" shared:"));
            assert!(error.to_string().contains("not shared"), "{error}");
        }
    }
}

/// Mounts a FUSE file system whose server never answers, so that only this thread and its children see it. It
/// ends when the returned descriptor closes.
fn dead_file_system(on: &Path) -> OwnedFd {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MoveMountFlags};
    crate::sys::unshare_mount_namespace().unwrap();
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    let server = std::fs::File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let server = OwnedFd::from(server);
    let context = rustix::mount::fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&server).to_string();
    for (key, value) in [("fd", &*number), ("rootmode", "40000"), ("user_id", "0"), ("group_id", "0")] {
        rustix::mount::fsconfig_set_string(&context, key, value).unwrap();
    }
    rustix::mount::fsconfig_create(&context).unwrap();
    let mount =
        rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap();
    rustix::mount::move_mount(&mount, "", CWD, on, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).unwrap();
    server
}

/// The open files of each thread that opens paths.
fn opener_descriptors() -> Vec<Vec<PathBuf>> {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten().map(|entry| entry.path());
    let is_opener = |thread: &PathBuf| {
        std::fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.trim_end() == "mount sources")
    };
    let descriptors = |thread: PathBuf| {
        let links = std::fs::read_dir(thread.join("fd")).into_iter().flatten().flatten();
        links.filter_map(|link| std::fs::read_link(link.path()).ok()).collect()
    };
    threads.filter(is_opener).map(descriptors).collect()
}

/// Like [`open`], by a thread in the mount namespace of the calling thread.
fn open_in_own_namespace(path: &Path, deadline: Duration) -> Result<Source, SourceError> {
    let request = (path.to_owned(), Options::default());
    let opened = open_by(Opener::start().unwrap(), vec![request], deadline);
    opened.map(|mut sources| sources.pop().unwrap()).map_err(|(_, error)| error)
}

#[test]
fn a_dead_file_system_costs_its_deadline_once_and_one_thread() {
    let Some(folder) = folder() else { return };
    if !Path::new("/dev/fuse").exists() {
        crisp_skip::unsupported!(Device("/dev/fuse"));
    }
    let path = folder.path().join("below");
    let mount_point = folder.path().to_owned();
    let lock = tempfile::NamedTempFile::new().unwrap();
    std::thread::spawn(move || {
        let server = dead_file_system(&mount_point);
        let before = stuck();
        let deadline = Duration::from_millis(100);
        let error = open_in_own_namespace(&path, deadline).unwrap_err().to_string();
        assert_eq!(error, SourceError::Deadline { path: path.clone(), deadline }.to_string());
        assert!(error.contains("below"), "{error}");
        for _ in 0..3 {
            let error = open_in_own_namespace(&path, SOON).unwrap_err();
            assert!(matches!(error, SourceError::StillStuck { .. }), "{error}");
            assert_eq!(stuck(), before + 1);
        }
        // Such a thread outlives a server that is killed, and would keep the server's locks.
        let holds_lock = |descriptors: &Vec<PathBuf>| descriptors.iter().any(|path| path == lock.path());
        let asked = Instant::now();
        // The thread of another test may not have left its descriptors yet.
        while opener_descriptors().iter().any(holds_lock) {
            assert!(asked.elapsed() < SOON, "the thread keeps the lock");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!opener_descriptors().is_empty());
        // Other paths are not affected.
        open_in_own_namespace(Path::new("/proc"), SOON).unwrap();
        drop(server);
        while stuck() > before {
            std::thread::sleep(Duration::from_millis(5));
        }
        let error = open_in_own_namespace(&path, SOON).unwrap_err().to_string();
        assert!(error.contains("is broken"), "{error}");
    })
    .join()
    .unwrap();
}
