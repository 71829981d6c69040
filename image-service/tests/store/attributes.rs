//! Owners, modes, times, attributes and kinds come out as they went in.

use std::path::Path;

use crate::archive::{Archive, item};
use crate::fixture::Fixture;
use crate::tree;

#[test]
fn everything_about_an_entry_is_kept() {
    crisp_skip::needs!();
    let fixture = Fixture::new();
    // VFS capability revision 2: cap_net_bind_service, effective and permitted.
    let capability = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let archive = Archive::new()
        .add(&item(b'5', "./").mode(0o751).owner(7, 8).mtime(5))
        .add(&item(b'5', "tmp").mode(0o1777).mtime(11))
        .add(&item(b'5', "shared").mode(0o2775).owner(0, 50).mtime(12).pax("SCHILY.xattr.user.d", "dir"))
        .add(&item(b'0', "tmp/plain").content("plain").mode(0o644).mtime(1_234_567_890))
        .add(&item(b'0', "setuid").mode(0o4755).owner(1000, 1001))
        .add(&item(b'0', "setgid-root").mode(0o2755))
        .add(&item(b'0', "open").mode(0o666))
        .add(&item(b'0', "closed").mode(0).content("secret"))
        .add(&item(b'0', "cap").mode(0o755).owner(3, 4).pax("SCHILY.xattr.security.capability", capability))
        .add(&item(b'0', "nanos").pax("mtime", "1500000000.123456789").pax("uid", "3000000000"))
        .add(&item(b'0', "old").pax("mtime", "-1.5"))
        .add(&item(b'0', "xattr").pax("SCHILY.xattr.user.a", b"\0\xff\n=").pax("SCHILY.xattr.user.b", "2"))
        .add(&item(b'2', "link").link("/nowhere/at all").owner(9, 10).mtime(77))
        .add(&item(b'3', "null").device(1, 3).mode(0o666).mtime(78))
        .add(&item(b'4', "disk").device(259, 70_000).mode(0o660).owner(0, 6))
        .add(&item(b'6', "pipe").mode(0o622).owner(1, 1))
        .add(&item(b'1', "again").link("tmp/plain"));
    let root = fixture.tree(archive);
    let tree = tree::read(&root);
    let at = |path: &str| &tree[Path::new(path)];
    let check = |path: &str, mode: u32, owner: (u32, u32), mtime: (i64, i64)| {
        let node = at(path);
        assert_eq!((node.mode & 0o7777, node.owner, node.mtime), (mode, owner, mtime), "{path}");
    };
    const USUAL: (i64, i64) = (1_600_000_000, 0);
    check("", 0o751, (7, 8), (5, 0));
    check("tmp", 0o1777, (0, 0), (11, 0));
    check("shared", 0o2775, (0, 50), (12, 0));
    check("tmp/plain", 0o644, (0, 0), (1_234_567_890, 0));
    check("setuid", 0o4755, (1000, 1001), USUAL);
    check("setgid-root", 0o2755, (0, 0), USUAL);
    check("open", 0o666, (0, 0), USUAL);
    check("closed", 0, (0, 0), USUAL);
    check("cap", 0o755, (3, 4), USUAL);
    check("nanos", 0o644, (3_000_000_000, 0), (1_500_000_000, 123_456_789));
    check("old", 0o644, (0, 0), (-2, 500_000_000));
    check("null", 0o666, (0, 0), (78, 0));
    check("disk", 0o660, (0, 6), USUAL);
    check("pipe", 0o622, (1, 1), USUAL);
    assert_eq!((at("link").owner, at("link").mtime), ((9, 10), (77, 0)));
    assert_eq!(at("link").content, b"/nowhere/at all");
    assert_eq!(at("null").device, rustix::fs::makedev(1, 3));
    assert_eq!(at("disk").device, rustix::fs::makedev(259, 70_000));
    assert_eq!(at("cap").xattrs["security.capability"], capability);
    assert_eq!(at("xattr").xattrs["user.a"], b"\0\xff\n=");
    assert_eq!(at("xattr").xattrs["user.b"], b"2");
    assert_eq!(at("shared").xattrs["user.d"], b"dir");
    assert_eq!(at("closed").content, b"secret");
    // In the order of names, the first of the two is the one that the other is the same as.
    assert_eq!(at("tmp/plain").same_as.as_deref(), Some(Path::new("again")));
}

#[test]
fn folders_keep_their_times_although_they_are_filled_later() {
    let fixture = Fixture::new();
    let archive = Archive::new()
        .add(&item(b'5', "a").mtime(100))
        .add(&item(b'5', "a/b").mtime(200))
        .file("a/b/c", "x")
        .file("a/d", "y")
        .symlink("a/e", "b")
        .file("a/e/f", "through the link")
        .file("implied/g", "z");
    let tree = tree::read(&fixture.tree(archive));
    assert_eq!(tree[Path::new("a")].mtime, (100, 0));
    assert_eq!(tree[Path::new("a/b")].mtime, (200, 0));
    // The archive names no time: every pull gives the same one, and not its own.
    assert_eq!(tree[Path::new("implied")].mtime, (0, 0));
    assert_eq!(tree[Path::new("implied")].mode & 0o7777, 0o755);
    assert_eq!(tree[Path::new("a/b/f")].content, b"through the link");
}

#[test]
fn the_size_on_record_is_what_the_disk_says() {
    let fixture = Fixture::new();
    let mut archive =
        Archive::new().dir("d").dir("d/e").symlink("short", "x").symlink("long", "y".repeat(90));
    for n in 0..300 {
        archive = archive.file(format!("d/e/a-name-that-fills-the-folder-{n}"), vec![1; n * 37]);
    }
    let archive = archive.hard_link("d/again", "d/e/a-name-that-fills-the-folder-299").file("implied/x", "");
    let root = fixture.tree(archive);
    let usage = fixture.store.usage();
    let (bytes, inodes) = du(&root);
    assert_eq!(usage.inodes, inodes);
    assert_eq!(usage.bytes, bytes);
}

/// The count of `du`.
fn du(root: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let mut seen = std::collections::HashSet::new();
    let (mut bytes, mut inodes) = (0, 0);
    for path in tree::read(root).keys() {
        let metadata = std::fs::symlink_metadata(root.join(path)).unwrap();
        if seen.insert(metadata.ino()) {
            bytes += metadata.blocks() * 512;
            inodes += 1;
        }
    }
    (bytes, inodes)
}

#[test]
fn folders_that_an_archive_leaves_out_look_like_those_below() {
    crisp_skip::needs!();
    let fixture = Fixture::new();
    let base = Archive::new()
        .add(&item(b'5', "home").mode(0o711).owner(1, 2).mtime(10))
        .add(&item(b'5', "home/user").mode(0o700).owner(1000, 1000).mtime(20).pax("SCHILY.xattr.user.x", "1"))
        .add(&item(b'5', "tmp").mode(0o1777).mtime(30))
        .add(&item(b'5', "gone").mode(0o700))
        .add(&item(b'5', "gone/in").mode(0o700))
        .add(&item(b'5', "hidden").mode(0o700))
        .add(&item(b'5', "hidden/in").mode(0o700));
    let middle = Archive::new()
        .file("unrelated", "")
        .file(".wh.gone", "")
        .dir("hidden")
        .file("hidden/.wh..wh..opq", "");
    let top = Archive::new()
        .file("home/user/app/bin/run", "x")
        .file("tmp/file", "")
        .file("gone/in/file", "")
        .file("hidden/in/file", "");
    let layers = [base, middle, top].map(|layer| fixture.ingest(layer).unwrap());
    let plain = tree::read(&fixture.layer(&layers[2]));
    let again = [&layers[0], &layers[1], &layers[2]];
    fixture.store.commit_image(crate::fixture::image("a", &again, "x")).unwrap();
    let check = |fixture: &Fixture| {
        let at = |path: &str| shown(fixture, "a", path);
        assert_eq!(at("home"), (0o711, (1, 2), 10, 0));
        assert_eq!(at("home/user"), (0o700, (1000, 1000), 20, 1));
        assert_eq!(at("tmp"), (0o1777, (0, 0), 30, 0));
        for new in ["home/user/app", "home/user/app/bin", "gone", "gone/in", "hidden/in"] {
            assert_eq!(at(new), (0o755, (0, 0), 0, 0), "{new}");
        }
        assert_eq!(at("hidden").0, 0o755, "the middle layer brought it");
    };
    check(&fixture);
    fixture.store.sync().unwrap();
    let fixture = fixture.reopen();
    check(&fixture);
    // Above another parent the shared layer shows that one.
    let other = fixture.ingest(Archive::new().add(&item(b'5', "home").mode(0o777).owner(9, 9))).unwrap();
    fixture.store.commit_image(crate::fixture::image("b", &[&other, &layers[2]], "y")).unwrap();
    assert_eq!(shown(&fixture, "b", "home").1, (9, 9));
    assert_eq!(shown(&fixture, "b", "home/user"), (0o755, (0, 0), 0, 0));
    check(&fixture);
    assert_eq!(tree::read(&fixture.layer(&layers[2])), plain, "other images share it");
    let made = fixture.store.find("a").unwrap().lower.clone();
    fixture.store.remove_image(&fixture.store.find("a").unwrap().id).unwrap();
    assert_eq!(shown(&fixture, "b", "home").1, (9, 9));
    let own = made.iter().find(|layer| !layers.contains(layer)).unwrap();
    assert!(!fixture.layer(own).exists(), "it went with its image");
}

/// Mode, owner, time and number of extended attributes of a directory in a mount of the image: those of the topmost
/// layer that has it.
fn shown(fixture: &Fixture, image: &str, path: &str) -> (u32, (u32, u32), i64, usize) {
    let image = fixture.store.find(image).unwrap();
    let lease = fixture.store.lease(&image.lower).unwrap();
    let mut trees = lease.layer_paths().iter().map(|layer| tree::read(layer));
    let found = trees.find_map(|mut tree| tree.remove(Path::new(path))).unwrap();
    (found.mode & 0o7777, found.owner, found.mtime.0, found.xattrs.len())
}

/// The directories of an image below a shared layer do not affect another image.
#[test]
fn an_image_does_not_change_the_directories_of_another_one() {
    crisp_skip::needs!();
    let fixture = Fixture::new();
    let shared = fixture.ingest(Archive::new().file("opt/app/bin/run", "x")).unwrap();
    let directory = |mode: u32, owner: u64| {
        let at = |path: &str| item(b'5', path).mode(mode).owner(owner, owner);
        Archive::new().add(&at("opt")).add(&at("opt/app").pax("SCHILY.xattr.user.x", owner.to_string()))
    };
    let hostile = fixture.ingest(directory(0o777, 1000)).unwrap();
    let usual = fixture.ingest(directory(0o755, 0)).unwrap();
    fixture.store.commit_image(crate::fixture::image("hostile", &[&hostile, &shared], "h")).unwrap();
    fixture.store.commit_image(crate::fixture::image("usual", &[&usual, &shared], "u")).unwrap();
    for path in ["opt", "opt/app"] {
        assert_eq!(shown(&fixture, "usual", path).0, 0o755, "{path}");
        assert_eq!(shown(&fixture, "usual", path).1, (0, 0), "{path}");
        assert_eq!(shown(&fixture, "hostile", path).0, 0o777, "{path}");
    }
    assert_eq!(shown(&fixture, "usual", "opt/app/bin").1, (0, 0));
    // Those that an earlier release has written into the layer itself do not show either.
    let tree = fixture.layer(&shared);
    std::os::unix::fs::chown(tree.join("opt/app"), Some(1000), Some(1000)).unwrap();
    let record = tree.with_file_name("layer.json");
    let text = std::fs::read_to_string(&record).unwrap();
    let edited = text.replace(
        "\"implied\":[\"opt\",\"opt/app\",\"opt/app/bin\"]",
        "\"inherited\":[\"opt\",\"opt/app\",\"opt/app/bin\"]",
    );
    assert_ne!(text, edited);
    std::fs::write(&record, edited).unwrap();
    let fixture = fixture.reopen();
    fixture.store.commit_image(crate::fixture::image("usual", &[&usual, &shared], "again")).unwrap();
    assert_eq!(shown(&fixture, "usual", "opt/app").1, (0, 0));
    let bare = fixture.ingest(Archive::new().file("etc/x", "")).unwrap();
    fixture.store.commit_image(crate::fixture::image("bare", &[&bare, &shared], "b")).unwrap();
    assert_eq!(shown(&fixture, "bare", "opt/app").1, (0, 0));
}

#[test]
fn a_saved_image_has_its_directories_where_it_is_loaded() {
    crisp_skip::needs!();
    let fixture = Fixture::new();
    let base = fixture.ingest(Archive::new().add(&item(b'5', "home").mode(0o700).owner(1000, 1000))).unwrap();
    let top = fixture.ingest(Archive::new().file("home/app", "x")).unwrap();
    fixture.store.commit_image(crate::fixture::image("app:v1", &[&base, &top], "x")).unwrap();
    let mut archive = Vec::new();
    fixture.store.save(&["app:v1".to_owned()], &mut archive).unwrap();
    let other = Fixture::new();
    other.store.load(&archive[..]).unwrap();
    assert_eq!(shown(&other, "app:v1", "home").1, (1000, 1000));
}

#[test]
fn an_attribute_that_does_not_fit_is_not_a_full_disk() {
    let fixture = Fixture::new();
    let large = item(b'0', "f").pax("SCHILY.xattr.user.large", vec![b'x'; 70_000]);
    let error = fixture.refusal(Archive::new().add(&large));
    assert!(error.contains("\"user.large\" of 70000 bytes is larger"), "{error}");
}

#[test]
fn what_is_made_in_a_set_group_id_directory_keeps_its_own_group() {
    crisp_skip::needs!();
    use std::os::unix::fs::MetadataExt;
    let fixture = Fixture::new();
    let shared = item(b'5', "local").mode(0o2775).owner(0, 50);
    let root = fixture.tree(
        Archive::new()
            .add(&shared)
            .file("local/f", "")
            .dir("local/d")
            .symlink("local/l", "f")
            .file("local/d/g", ""),
    );
    let of = |path: &str| {
        let metadata = std::fs::symlink_metadata(root.join(path)).unwrap();
        (metadata.gid(), metadata.mode() & 0o7777)
    };
    assert_eq!(of("local"), (50, 0o2775));
    assert_eq!(of("local/f"), (0, 0o644));
    assert_eq!(of("local/d"), (0, 0o755));
    assert_eq!(of("local/l").0, 0);
    assert_eq!(of("local/d/g"), (0, 0o644));
}
