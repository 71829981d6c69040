use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crisp_executor::user_namespace::{IdMappings, IdRange};

use super::*;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.path().join(name)).unwrap()
    }

    /// A container's root in this folder.
    fn root(&self, name: &str) -> Root {
        fs::create_dir_all(self.path(name)).unwrap();
        Root::Container { root: OwnedFd::from(fs::File::open(self.path(name)).unwrap()), users: None }
    }
}

fn archive(path: &str) -> Vec<u8> {
    let mut archive = Vec::new();
    pack(&Root::Host, path, false, &mut archive).unwrap();
    archive
}

fn copy(from: &str, to: &str) -> Result<Unpacked, CopyError> {
    unpack(&archive(from)[..], &Root::Host, Destination::Named(to), Owner::Maker)
}

#[test]
fn a_tree_arrives_as_it_was() {
    let folder = Folder::new();
    let long = "a-long-name-".repeat(15);
    folder.write("from/sub/file", "text");
    folder.write(&format!("from/{long}/{long}"), "deep");
    fs::create_dir(folder.path("from/empty")).unwrap();
    symlink("/no/where", folder.path("from/link")).unwrap();
    symlink(&long, folder.path("from/long-link")).unwrap();
    let mode = |name: &str, mode| {
        fs::set_permissions(folder.path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("from/sub/file", 0o4751);
    mode("from/empty", 0o1700);
    let old = fs::File::open(folder.path("from/sub")).unwrap();
    old.set_modified(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000)).unwrap();
    let made = copy(&folder.path("from"), &folder.path("to")).unwrap();
    assert_eq!(made, Unpacked { entries: 8, bytes: 8 });
    assert_eq!(
        (folder.read("to/sub/file"), folder.read(&format!("to/{long}/{long}"))),
        ("text".into(), "deep".into())
    );
    assert_eq!(fs::read_link(folder.path("to/link")).unwrap(), Path::new("/no/where"));
    assert_eq!(fs::read_link(folder.path("to/long-link")).unwrap(), Path::new(&long));
    let mode = |name: &str| fs::symlink_metadata(folder.path(name)).unwrap().mode() & 0o7777;
    let masked = |mode| mode & !attributes::umask();
    // Set-id bits were meant for another owner.
    assert_eq!((mode("to/sub/file"), mode("to/empty")), (masked(0o751), 0o1700));
    assert_eq!(fs::metadata(folder.path("to/sub")).unwrap().mtime(), 1000);
    unpack(
        &archive(&folder.path("from"))[..],
        &Root::Host,
        Destination::Named(&folder.path("kept")),
        Owner::Kept,
    )
    .unwrap();
    assert_eq!((mode("kept/sub/file"), mode("kept/empty")), (0o4751, 0o1700));
    let to = folder.path("rooted");
    unpack(&archive(&folder.path("from"))[..], &Root::Host, Destination::Named(&to), Owner::Root).unwrap();
    assert_eq!((mode("rooted/sub/file"), mode("rooted/empty")), (0o751, 0o1700));
}

#[test]
fn an_archive_that_breaks_off_leaves_what_was_there_and_the_modes_of_directories() {
    let folder = Folder::new();
    folder.write("from/file", &"new".repeat(10_000));
    folder.write("to/file", "old");
    fs::set_permissions(folder.path("from"), fs::Permissions::from_mode(0o2555)).unwrap();
    let archive = archive(&folder.path("from"));
    let cut = &archive[..archive.len() / 2];
    let into = |to: &str| unpack(cut, &Root::Host, Destination::Named(&folder.path(to)), Owner::Kept);
    fs::rename(folder.path("from"), folder.path("gone")).unwrap();
    assert!(matches!(into("new"), Err(CopyError::Damaged { .. })));
    assert_eq!(fs::metadata(folder.path("new")).unwrap().mode() & 0o7777, 0o2555);
    fs::rename(folder.path("to"), folder.path("from")).unwrap();
    assert!(matches!(into("."), Err(CopyError::Damaged { .. })));
    assert_eq!(folder.read("from/file"), "old");
    for name in ["from", "new"] {
        let left = fs::read_dir(folder.path(name)).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(left.into_iter().all(|file| file == "file"), "{name}");
    }
    let broken = std::io::Read::chain(&archive[..1000], Broken);
    let made = unpack(broken, &Root::Host, Destination::Named(&folder.path("x")), Owner::Kept);
    assert!(matches!(&made, Err(CopyError::Archive(error)) if error.to_string() == "unplugged"), "{made:?}");
}

struct Broken;

impl std::io::Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other("unplugged"))
    }
}

#[test]
fn holes_stay_holes_and_names_of_one_file_names_of_one_file() {
    let folder = Folder::new();
    fs::create_dir(folder.path("from")).unwrap();
    let sparse = fs::File::create(folder.path("from/sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 10 << 20).unwrap();
    sparse.set_len(20 << 20).unwrap();
    folder.write("from/one", "text");
    fs::hard_link(folder.path("from/one"), folder.path("from/two")).unwrap();
    copy(&folder.path("from"), &folder.path("to")).unwrap();
    let (of, to) =
        (fs::read(folder.path("from/sparse")).unwrap(), fs::read(folder.path("to/sparse")).unwrap());
    assert!(of == to);
    assert!(fs::metadata(folder.path("to/sparse")).unwrap().blocks() < 1000);
    let inode = |name: &str| fs::metadata(folder.path(name)).unwrap().ino();
    assert_eq!((inode("to/one"), folder.read("to/two")), (inode("to/two"), "text".into()));
    // Also over files that exist.
    copy(&folder.path("from"), &folder.path("to/../")).unwrap();
    assert_eq!(inode("from/one"), inode("from/two"));
}

#[test]
fn headers_that_promise_more_than_any_file_needs_are_refused() {
    let folder = Folder::new();
    let header = |kind: u8, size| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_path("name").unwrap();
        header.set_size(size);
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    for (kind, size) in [(b'L', 1 << 30), (b'x', 1 << 40), (b'S', 1 << 40)] {
        let head = header(kind, size);
        let archive = std::io::Read::chain(&head[..], std::io::repeat(b'x'));
        let made = unpack(archive, &Root::Host, Destination::Into(&folder.path("")), Owner::Maker);
        assert!(matches!(made, Err(CopyError::Damaged { .. })), "{kind}: {made:?}");
    }
}

/// The root of a container that does not run, with places of mounts.
#[test]
fn nothing_is_copied_to_or_from_the_place_of_a_mount_whatever_leads_there() {
    let folder = Folder::new();
    folder.write("root/run/secrets/token", "of the image");
    folder.write("root/etc/hosts", "of the image");
    fs::create_dir_all(folder.path("root/x")).unwrap();
    fs::create_dir_all(folder.path("root/srv")).unwrap();
    symlink("../run", folder.path("root/var")).unwrap();
    folder.write("data/inner", "new");
    folder.write("file", "new");
    let places = ["/var/secrets", "/srv/data", "/etc/hosts"].map(Path::new);
    let stopped = || {
        let directory = fs::File::open(folder.path("root")).unwrap();
        Root::stopped(directory.into(), None, places).unwrap()
    };
    let refused = |made: Result<(), CopyError>| matches!(made, Err(CopyError::NotMounted { .. }));
    let out = |path: &str| pack(&stopped(), path, true, std::io::sink());
    let into = |from: &str, to: &str| {
        let archive = archive(&folder.path(from));
        unpack(&archive[..], &stopped(), Destination::Named(to), Owner::Maker).map(drop)
    };
    for path in [
        "/run/secrets",
        "/run/secrets/token",
        "/var/secrets/token",
        "/x/../run/secrets",
        "/etc/hosts",
        "/srv/data/file",
    ] {
        assert!(refused(out(path)), "{path}");
    }
    for (from, to) in [
        ("file", "/run/secrets/x"),
        ("file", "/x/../var/secrets/"),
        ("file", "/etc/hosts"),
        ("data", "/srv"),
        ("data", "/srv/data"),
        ("data/.", "/srv/data"),
    ] {
        let made = into(from, to);
        assert!(refused(made), "{from} {to}");
    }
    assert!(!Path::new(&folder.path("root/srv/data")).exists());
    into("data", "/srv/other").unwrap();
    let mut archive = Vec::new();
    pack(&stopped(), "/", false, &mut archive).unwrap();
    let text = String::from_utf8_lossy(&archive);
    assert!(text.contains("srv/other/inner") && text.contains("run/secrets"), "{text}");
    assert!(!text.contains("token") && !text.contains("hosts"), "{text}");
}

#[test]
fn files_of_the_kernel_are_read_where_they_are_asked_for() {
    let folder = Folder::new();
    let proc = |path: &str, to: &str| {
        let mut archive = Vec::new();
        pack(&Root::Host, path, false, &mut archive).unwrap();
        unpack(&archive[..], &Root::Host, Destination::Named(&folder.path(to)), Owner::Maker).unwrap();
    };
    proc("/proc/self/status", "status");
    assert!(folder.read("status").contains("Umask:"));
    proc("/proc/sys/kernel", "kernel");
    assert!(folder.read("kernel/ostype").contains("Linux"));
}

#[test]
fn names_of_destinations_are_understood_as_docker_cp_does() {
    let folder = Folder::new();
    folder.write("file", "new");
    folder.write("dir/inner", "inner");
    let from = |name: &str| folder.path(name);
    // A file.
    folder.write("there/x", "");
    copy(&from("file"), &from("there")).unwrap();
    copy(&from("file"), &from("there/named")).unwrap();
    copy(&from("file"), &from("there/x")).unwrap();
    assert_eq!(
        [folder.read("there/file"), folder.read("there/named"), folder.read("there/x")],
        ["new", "new", "new"]
    );
    assert!(matches!(copy(&from("file"), &from("none/")), Err(CopyError::Missing { .. })));
    assert!(matches!(copy(&from("file"), &from("none/x")), Err(CopyError::Missing { .. })));
    assert!(matches!(copy(&from("file"), &from("file/")), Err(CopyError::NotADirectory { .. })));
    // A directory.
    copy(&from("dir"), &from("there")).unwrap();
    copy(&from("dir"), &from("new-dir/")).unwrap();
    copy(&from("dir/."), &from("there")).unwrap();
    copy(&from("dir/."), &from("contents")).unwrap();
    for name in ["there/dir/inner", "new-dir/inner", "there/inner", "contents/inner"] {
        assert_eq!(folder.read(name), "inner", "{name}");
    }
    assert!(matches!(copy(&from("dir"), &from("file")), Err(CopyError::NotADirectory { .. })));
    // A file does not replace a directory, nor a directory a file; neither replaces a link.
    fs::create_dir(from("there/dir2")).unwrap();
    folder.write("dir2", "a file");
    assert!(matches!(copy(&from("dir2"), &from("there")), Err(CopyError::InTheWay { .. })));
    symlink("dir2", from("there/link")).unwrap();
    fs::create_dir(from("link")).unwrap();
    assert!(matches!(copy(&from("link"), &from("there")), Err(CopyError::NotADirectory { .. })));
}

#[test]
fn an_archive_goes_into_a_directory_by_its_own_names() {
    let folder = Folder::new();
    folder.write("dir/inner", "inner");
    fs::create_dir(folder.path("to")).unwrap();
    let archive = archive(&folder.path("dir"));
    let unpack =
        |to: &str| unpack(&archive[..], &Root::Host, Destination::Into(&folder.path(to)), Owner::Maker);
    unpack("to").unwrap();
    assert_eq!(folder.read("to/dir/inner"), "inner");
    assert!(matches!(unpack("none"), Err(CopyError::Missing { .. })));
    assert!(matches!(
        crate::unpack(&[0; 1024][..], &Root::Host, Destination::Into(&folder.path("to")), Owner::Maker),
        Err(CopyError::Empty)
    ));
}

#[test]
fn links_of_a_container_lead_nowhere_else() {
    let folder = Folder::new();
    let root = folder.root("root");
    folder.write("secret", "of the host");
    folder.write("root/secret", "of the container");
    folder.write("file", "new");
    let host = folder.0.path().display().to_string();
    symlink(format!("{host}/secret"), folder.path("root/absolute")).unwrap();
    symlink("../../../../../../secret", folder.path("root/upward")).unwrap();
    symlink(&host, folder.path("root/outside")).unwrap();
    let mut out = Vec::new();
    pack(&root, "/upward", true, &mut out).unwrap();
    assert!(String::from_utf8_lossy(&out).contains("of the container"));
    assert!(matches!(pack(&root, "/absolute", true, Vec::new()), Err(CopyError::Missing { .. })));
    assert!(matches!(pack(&root, "/outside/", true, Vec::new()), Err(CopyError::Missing { .. })));
    assert!(pack(&root, "/proc/self/root", true, Vec::new()).is_err());
    let into =
        |to: &str| unpack(&archive(&folder.path("file"))[..], &root, Destination::Named(to), Owner::Maker);
    into("/upward").unwrap();
    assert_eq!((folder.read("root/secret"), folder.read("secret")), ("new".into(), "of the host".into()));
    assert!(matches!(into("/outside/x"), Err(CopyError::Missing { .. })));
    assert!(matches!(into("/absolute"), Err(CopyError::Missing { .. })));
}

/// On a thread of its own, because the thread acts as the pod's root from then on.
#[test]
fn files_of_a_pod_with_a_user_namespace_belong_to_its_users() {
    crisp_skip::needs!();
    let folder = Folder::new();
    folder.write("from/sub/file", "text");
    std::os::unix::fs::chown(folder.path("from/sub/file"), Some(7), Some(8)).unwrap();
    fs::create_dir(folder.path("root")).unwrap();
    let range = |host| vec![IdRange { container: 0, host, length: 1000 }];
    let users = IdMappings { uids: range(300_000), gids: range(400_000) };
    let root = || Root::Container {
        root: OwnedFd::from(fs::File::open(folder.path("root")).unwrap()),
        users: Some(users.clone()),
    };
    let into = |to: &str, owner| {
        let archive = archive(&folder.path("from"));
        let unpack = || unpack(&archive[..], &root(), Destination::Named(to), owner);
        std::thread::scope(|scope| scope.spawn(unpack).join().unwrap())
    };
    let owner = |path: &str| {
        let found = fs::metadata(folder.path(path)).unwrap();
        (found.uid(), found.gid())
    };
    into("/by-root", Owner::Root).unwrap();
    into("/kept", Owner::Kept).unwrap();
    assert_eq!(owner("root/by-root/sub/file"), (300_000, 400_000));
    assert_eq!(
        (owner("root/kept/sub"), owner("root/kept/sub/file")),
        ((300_000, 400_000), (300_007, 400_008))
    );
    let mut archive = Vec::new();
    pack(&root(), "/kept/sub/file", false, &mut archive).unwrap();
    let out = folder.path("out");
    unpack(&archive[..], &Root::Host, Destination::Named(&out), Owner::Kept).unwrap();
    assert_eq!(owner("out"), (7, 8), "in an archive they are those that the container sees");
    std::os::unix::fs::chown(folder.path("from/sub/file"), Some(1000), Some(0)).unwrap();
    let refused = into("/none", Owner::Kept).unwrap_err().to_string();
    assert!(refused.contains("sub/file: its owner 1000:0 does not exist"), "{refused}");
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    assert!(status.contains("Uid:\t0\t0\t0\t0\n"), "only the copying threads have changed: {status}");
}

/// A container keeps replacing a directory by a link out of its root while files are copied into it.
#[test]
fn a_directory_that_becomes_a_link_while_it_is_written_and_read_leads_nowhere_else() {
    let folder = Folder::new();
    let root = folder.root("root");
    folder.write("host/secret", "of the host");
    folder.write("from/a/b/file", "new");
    folder.write("from/a/b/other", "new");
    fs::create_dir_all(folder.path("root/to/from/a")).unwrap();
    symlink(folder.path("host"), folder.path("root/to/from/other")).unwrap();
    let (over, archive) = (AtomicBool::new(false), archive(&folder.path("from")));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (one, two) = (folder.path("root/to/from/a"), folder.path("root/to/from/other"));
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            while !over.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(rustix::fs::CWD, &one, rustix::fs::CWD, &two, flags).unwrap();
            }
        });
        let (mut written, mut read) = (0, 0);
        for _ in 0..3000 {
            let made = unpack(&archive[..], &root, Destination::Named("/to"), Owner::Maker);
            written += u32::from(made.is_ok());
            let mut out = Vec::new();
            read += u32::from(pack(&root, "/to/from", false, &mut out).is_ok());
            assert!(!String::from_utf8_lossy(&out).contains("of the host"));
        }
        over.store(true, Ordering::Relaxed);
        assert!(written > 0 && read > 0, "{written} {read}: it must succeed now and then");
    });
    let names: Vec<_> = fs::read_dir(folder.path("host")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["secret"], "nothing was made outside");
}

#[test]
fn pipes_are_not_opened_and_devices_not_copied() {
    let folder = Folder::new();
    fs::create_dir(folder.path("from")).unwrap();
    let make = |name: &str, kind, device| {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, folder.path(name), kind, mode, device).unwrap();
    };
    make("from/pipe", rustix::fs::FileType::Fifo, 0);
    copy(&folder.path("from"), &folder.path("to")).unwrap();
    let is_a_pipe = std::os::unix::fs::FileTypeExt::is_fifo;
    assert!(is_a_pipe(&fs::metadata(folder.path("to/pipe")).unwrap().file_type()));
    // Opening it would wait for the other side.
    make("into", rustix::fs::FileType::Fifo, 0);
    folder.write("file", "new");
    copy(&folder.path("file"), &folder.path("into")).unwrap();
    assert_eq!(folder.read("into"), "new");
    let mut device = tar::Header::new_gnu();
    device.set_entry_type(tar::EntryType::Char);
    device.set_size(0);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut device, "null", std::io::empty()).unwrap();
    let archive = builder.into_inner().unwrap();
    let made = unpack(&archive[..], &Root::Host, Destination::Into(&folder.path("to")), Owner::Kept);
    assert!(matches!(made, Err(CopyError::Device { .. })));
}

#[test]
fn an_archive_that_leads_out_of_its_place_is_refused() {
    let folder = Folder::new();
    fs::create_dir(folder.path("to")).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(0);
    // The library that writes archives refuses the name itself.
    header.as_old_mut().name[..9].copy_from_slice(b"../escape");
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, std::io::empty()).unwrap();
    let archive = builder.into_inner().unwrap();
    let made = unpack(&archive[..], &Root::Host, Destination::Into(&folder.path("to")), Owner::Maker);
    assert!(matches!(made, Err(CopyError::Escapes { .. })), "{made:?}");
    // An archive that makes a link first and then writes through it.
    let mut builder = tar::Builder::new(Vec::new());
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    builder.append_link(&mut link, "out", folder.0.path()).unwrap();
    let mut file = tar::Header::new_gnu();
    file.set_size(4);
    builder.append_data(&mut file, "out/escape", &b"text"[..]).unwrap();
    let archive = builder.into_inner().unwrap();
    let made = unpack(&archive[..], &Root::Host, Destination::Into(&folder.path("to")), Owner::Maker);
    assert!(matches!(made, Err(CopyError::NotADirectory { .. })), "{made:?}");
    assert!(!Path::new(&folder.path("escape")).exists());
}
