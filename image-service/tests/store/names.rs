//! Names of all shapes, and entries that meet each other.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::archive::{Archive, item};
use crate::fixture::Fixture;
use crate::tree;

#[test]
fn names_may_be_long_odd_and_dotted() {
    let fixture = Fixture::new();
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(250));
    let very_long = vec!["component-of-some-length"; 100].join("/");
    let target = "t".repeat(3000);
    let archive = Archive::new()
        .file(&long, "long")
        .add(&item(b'0', "short").pax("path", &very_long).content("very long"))
        .symlink("link", &target)
        .add(&item(b'2', "pax-link").pax("linkpath", &target))
        .file(b"not-utf8-\xff\xfe", "bytes")
        .file("./a//./b/", "")
        .file("with space and \n line", "odd")
        .file("...", "three dots")
        .file("..a", "two dots");
    let root = fixture.tree(archive);
    assert_eq!(fs::read(root.join(&long)).unwrap(), b"long");
    assert_eq!(fs::read(root.join(&very_long)).unwrap(), b"very long");
    assert_eq!(fs::read_link(root.join("link")).unwrap().as_os_str().as_bytes(), target.as_bytes());
    assert_eq!(fs::read_link(root.join("pax-link")).unwrap().as_os_str().as_bytes(), target.as_bytes());
    let odd = std::ffi::OsStr::from_bytes(b"not-utf8-\xff\xfe");
    assert_eq!(fs::read(root.join(odd)).unwrap(), b"bytes");
    assert!(root.join("a/b").is_dir(), "a name that ends with a slash is a folder");
    assert_eq!(fs::read(root.join("with space and \n line")).unwrap(), b"odd");
    assert_eq!(fs::read(root.join("...")).unwrap(), b"three dots");
}

#[test]
fn later_entries_replace_earlier_ones() {
    let fixture = Fixture::new();
    let deep = (0..600).map(|_| "x").collect::<Vec<_>>().join("/");
    let archive = Archive::new()
        .file("file-file", "old old old")
        .file("file-file", "new")
        .file("file-dir", "old")
        .add(&item(b'5', "file-dir").mode(0o700))
        .file("file-dir/in", "")
        .file("dir-file/a/b", "old")
        .file(format!("dir-file/{deep}/deep"), "old")
        .symlink("dir-file/l", "/")
        .file("dir-file", "new")
        .dir("dir-dir")
        .file("dir-dir/kept", "kept")
        .add(&item(b'5', "dir-dir").mode(0o711).mtime(99))
        .symlink("link-link", "old")
        .symlink("link-link", "new")
        .file("one", "1")
        .hard_link("two", "one")
        .file("two", "separate")
        .file("target", "t")
        .file("place", "old")
        .hard_link("place", "target")
        .symlink("link-dir", "dir-dir")
        .dir("link-dir")
        .file("link-dir/own", "")
        .add(&item(b'6', "file-file-pipe"))
        .file("file-file-pipe", "no pipe");
    let root = fixture.tree(archive);
    let tree = tree::read(&root);
    let content = |path: &str| String::from_utf8(tree[Path::new(path)].content.clone()).unwrap();
    assert_eq!(content("file-file"), "new");
    assert_eq!(tree[Path::new("file-dir")].mode, 0o040_700);
    assert!(tree.contains_key(Path::new("file-dir/in")));
    assert_eq!(content("dir-file"), "new");
    assert_eq!(content("dir-dir/kept"), "kept");
    assert_eq!((tree[Path::new("dir-dir")].mode, tree[Path::new("dir-dir")].mtime), (0o040_711, (99, 0)));
    assert_eq!(content("link-link"), "new");
    assert_eq!((content("one"), content("two")), ("1".into(), "separate".into()));
    assert_eq!(content("place"), "t");
    assert!(tree.contains_key(Path::new("link-dir/own")));
    assert!(!tree.contains_key(Path::new("dir-dir/own")), "the link's target is another folder");
    assert_eq!(content("file-file-pipe"), "no pipe");
    let usage = fixture.store.usage();
    let names = tree.values().filter(|node| node.same_as.is_none()).count();
    assert_eq!(usage.inodes, names as u64, "what was replaced is not counted");
}

#[test]
fn links_within_the_layer_are_followed_as_inside() {
    let fixture = Fixture::new();
    let archive = Archive::new()
        .symlink("lib", "usr/lib")
        .file("lib/before-usr-exists", "1")
        .dir("usr")
        .add(&item(b'5', "usr/lib").mode(0o711))
        .file("lib/after", "2")
        .symlink("var/run", "/run")
        .file("var/run/pid", "3")
        .symlink("a/b/up", "../../usr/./lib/../share")
        .file("a/b/up/x", "4");
    let root = fixture.tree(archive);
    assert_eq!(
        tree::names(&root),
        [
            "d a",
            "d a/b",
            "l a/b/up",
            "l lib",
            "d run",
            "f run/pid",
            "d usr",
            "d usr/lib",
            "f usr/lib/after",
            "f usr/lib/before-usr-exists",
            "d usr/share",
            "f usr/share/x",
            "d var",
            "l var/run",
        ]
    );
    assert_eq!(tree::read(&root)[Path::new("usr/lib")].mode, 0o040_711);
}

#[test]
fn headers_about_the_whole_archive_are_skipped() {
    let fixture = Fixture::new();
    let archive = Archive::new()
        .extension(b'g', b"52 comment=0123456789012345678901234567890123456789\n")
        .add(&item(b'V', "volume name"))
        .file("a", "x");
    assert_eq!(tree::names(&fixture.tree(archive)), ["f a"]);
}
