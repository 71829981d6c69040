//! Archives that would take too much memory, space or time.

use std::fs;

use crisp_image_service::unpack::Limits;

use crate::archive::{Archive, header, item, zstd};
use crate::fixture::{Fixture, diff_of, image, open_limited};

/// Says the same again and again, however often it is read.
struct Endless {
    first: Vec<u8>,
    again: Vec<u8>,
    at: usize,
}

impl std::io::Read for Endless {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.first.len() {
            (self.first, self.at) = (self.again.clone(), 0);
        }
        let n = into.len().min(self.first.len() - self.at);
        into[..n].copy_from_slice(&self.first[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

#[test]
fn an_archive_that_never_ends_is_refused_although_it_makes_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { unused: 8 << 20, extended_headers: 8 << 20, ..Limits::default() };
    let store = open_limited(folder.path(), limits).unwrap();
    let zeros = zstd(&vec![0; 4 << 20]);
    assert!(zeros.len() < 1000, "a small layer becomes a large content");
    let archive = Archive::new().file("a", "x");
    let huge_header = archive.clone().raw(&header(&item(b'g', "x").content(vec![0; 100 << 20])));
    let ignored = archive.clone().raw(&header(&item(b'0', ".wh..wh.x").content(vec![0; 100 << 20])));
    let many = Archive::new().extension(b'g', b"6 a=b\n").unfinished();
    let comment = [&b"1000000 comment="[..], &vec![b' '; 999_983], b"\n"].concat();
    let long = Archive::new().extension(b'x', &comment).file("a", "x").unfinished();
    for (what, first, again, expected) in [
        ("zeros after the end", archive.clone().tar(), zeros.clone(), "make no file"),
        ("a huge global header", huge_header.unfinished(), zeros.clone(), "make no file"),
        ("many global headers", archive.unfinished(), zstd(&many.repeat(1000)), "make no file"),
        ("content of an ignored entry", ignored.unfinished(), zeros, "make no file"),
        ("long headers", Vec::new(), zstd(&long), "extended headers"),
    ] {
        let diff = diff_of(what.as_bytes());
        let first = if first.is_empty() { again.clone() } else { zstd(&first) };
        let error = store.ingest_layer(&diff, Endless { first, again, at: 0 }).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("8388608"), "{what}: {error}");
    }
}

#[test]
fn bombs_meet_limits() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { entries: 10, bytes: 1000, ..Limits::default() };
    let store = open_limited(folder.path(), limits).unwrap();
    let refuse = |archive: Archive| {
        let tar = archive.tar();
        store.ingest_layer(&diff_of(&tar), &tar[..]).unwrap_err().to_string()
    };
    let many = (0..11).fold(Archive::new(), |archive, n| archive.file(format!("{n}"), ""));
    assert!(refuse(many).contains("more than 10 entries"));
    let large = Archive::new().file("a", [0; 600]).file("b", [0; 600]);
    assert!(refuse(large).contains("larger than 1000 bytes together"));
    // Announced, never there: refused before memory is asked for.
    let mut long = item(b'L', "././@LongLink");
    long.content = vec![b'x'; 5000];
    assert!(refuse(Archive::new().extension(b'L', &long.content)).contains("4096 are allowed"));
    assert!(
        refuse(Archive::new().extension(b'x', &vec![b'x'; 2 << 20])).contains("extended header is 2097152")
    );
    let mut headers = Archive::new();
    for _ in 0..20 {
        headers = headers
            .extension(b'x', &[b"99994 comment=".to_vec(), vec![b'x'; 99_979], b"\n".to_vec()].concat());
    }
    assert!(refuse(headers.file("a", "")).contains("are allowed"));
    let deep = "d/".repeat(3000);
    assert!(refuse(Archive::new().add(&item(b'0', "x").pax("path", &deep))).contains("4095 are allowed"));
    let component = "n".repeat(256);
    assert!(refuse(Archive::new().file(&component, "")).contains("too long"));
}

#[test]
fn directories_that_are_only_implied_meet_limits() {
    let folder = tempfile::tempdir().unwrap();
    let open = |limits: Limits| {
        let store = open_limited(&folder.path().join(format!("{}", limits.inodes)), limits).unwrap();
        store.start_collection().unwrap();
        store
    };
    // As in a bomb: a thousand entries, each in a thousand directories of its own.
    let deep = |n: u32| format!("{n}/{}f", "d/".repeat(1000));
    let tar = (0..1000).fold(Archive::new(), |archive, n| archive.file(deep(n), "")).tar();
    let refuse = |limits: Limits| {
        let store = open(limits);
        let error = store.ingest_layer(&diff_of(&tar), &tar[..]).unwrap_err().to_string();
        let unpacking = store.layers_path().join(".unpacking");
        assert_eq!(fs::read_dir(unpacking).unwrap().count(), 0, "{error}");
        error
    };
    let error = refuse(Limits { inodes: 5000, ..Limits::default() });
    assert!(error.contains("makes more than 5000 files") && error.contains("raise"), "{error}");
    let error = refuse(Limits { inodes: 6000, implied: 3000, ..Limits::default() });
    assert!(error.contains("more than 3000 directories without bringing them"), "{error}");
    let error = refuse(Limits { inodes: 7000, directory_memory: 1 << 20, ..Limits::default() });
    assert!(error.contains("1048576 bytes of memory"), "{error}");
    let error = refuse(Limits { inodes: 200_000, implied_bytes: usize::MAX, ..Limits::default() });
    assert!(error.contains("more than 100000 directories"), "{error}");
    // Paths that stay in memory: few entries of the archive make many and long ones.
    let error = refuse(Limits::default());
    assert!(error.contains("have more than 16777216 bytes"), "{error}");
}

#[test]
fn an_image_that_makes_the_store_look_for_directories_without_end_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { inherit_lookups: 1000, ..Limits::default() };
    let store = open_limited(folder.path(), limits).unwrap();
    let ingest = |archive: Archive| {
        let tar = archive.tar();
        store.ingest_layer(&diff_of(&tar), &tar[..]).unwrap();
        diff_of(&tar)
    };
    let below: Vec<_> = (0..10).map(|n| ingest(Archive::new().file(format!("{n}"), ""))).collect();
    let usual = ingest(Archive::new().file("a/b/f", ""));
    let many = ingest((0..100).fold(Archive::new(), |archive, n| archive.file(format!("a/{n}/f"), "")));
    let with = |top| below.iter().chain([top]).collect::<Vec<_>>();
    store.commit_image(image("usual:v1", &with(&usual), "usual")).unwrap();
    let error = store.commit_image(image("many:v1", &with(&many), "many")).unwrap_err().to_string();
    assert!(error.contains("too many directories without bringing them"), "{error}");
}

#[test]
fn every_inode_that_was_made_counts_and_not_only_those_that_stay() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_limited(folder.path(), Limits { inodes: 20, ..Limits::default() }).unwrap();
    let again = (0..30).fold(Archive::new(), |archive, _| archive.file("same", "")).tar();
    let error = store.ingest_layer(&diff_of(&again), &again[..]).unwrap_err().to_string();
    assert!(error.contains("more than 20 files"), "{error}");
    let gone = (0..30).fold(Archive::new(), |archive, n| archive.file(format!(".wh.{n}"), "")).tar();
    let error = store.ingest_layer(&diff_of(&gone), &gone[..]).unwrap_err().to_string();
    assert!(error.contains("more than 20 files"), "{error}");
}

#[test]
fn a_tree_deeper_than_descriptors_and_paths_allow_is_unpacked_replaced_and_deleted() {
    let fixture = Fixture::new();
    // Each link leads a thousand directories down, and the next goes on from there.
    let down = vec!["d"; 1000].join("/");
    let mut archive = Archive::new().file(format!("{down}/f"), "x").symlink("l0", &down);
    for n in 1..5 {
        archive = archive
            .file(format!("l{}/{down}/f", n - 1), "x")
            .symlink(format!("l{n}"), format!("l{}/{down}", n - 1));
    }
    let tree = fixture.tree(archive.clone());
    assert!(tree.join(&down).join("f").exists());
    let replaced = fixture.tree(archive.file("d", "now a file"));
    assert_eq!(fs::read(replaced.join("d")).unwrap(), b"now a file");
    fixture.store.collect_unused().unwrap();
    fixture.assert_no_leftovers();
    assert_eq!(fixture.store.usage().inodes, 0);
}
