//! Archives that want out, or that are broken. Each must be refused by name, or do no harm.

use std::fs;
use std::os::unix::fs::symlink;

use crisp_image_service::DiffId;
use crisp_image_service::store::IngestError;
use crisp_image_service::unpack::Limits;

use crate::archive::{Archive, gzip, header, item, zstd};
use crate::fixture::{Fixture, diff_of, image, open_limited};
use crate::tree;

#[test]
fn names_with_dot_dot_are_refused_by_name() {
    let fixture = Fixture::new();
    for name in ["../x", "a/../../x", "a/..", "..", "/../x", "./../x"] {
        let error = fixture.refusal(Archive::new().dir("a").file(name, "evil"));
        assert!(error.contains(&format!("entry {name:?}")) && error.contains("\"..\""), "{error}");
    }
    let error = fixture.refusal(Archive::new().file("a", "x").hard_link("b", "../../../etc/passwd"));
    assert!(error.contains("hard link") && error.contains("../../../etc/passwd"), "{error}");
}

#[test]
fn absolute_names_are_below_the_layer() {
    let fixture = Fixture::new();
    let root =
        fixture.tree(Archive::new().file("/etc/crisp-escape", "x").hard_link("/link", "/etc/crisp-escape"));
    assert_eq!(tree::names(&root), ["d etc", "f etc/crisp-escape", "f link"]);
    assert!(!fs::exists("/etc/crisp-escape").unwrap());
}

#[test]
fn links_lead_nowhere_outside() {
    let fixture = Fixture::new();
    let outside = fixture.folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    let target = outside.to_str().unwrap();
    let up = format!("{}{}", "../".repeat(30), &target[1..]);
    for target in [target, &up] {
        let root = fixture.tree(Archive::new().symlink("way", target).file("way/planted", "evil"));
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "something was planted over {target}");
        // It went where a process inside would have gone.
        assert_eq!(fs::read(root.join(&outside.to_str().unwrap()[1..]).join("planted")).unwrap(), b"evil");
        assert_eq!(fs::read_link(root.join("way")).unwrap().to_str().unwrap(), target);
    }
    let error = fixture.refusal(Archive::new().symlink("way", target).hard_link("stolen", "way/secret"));
    assert!(error.contains("not in this layer"), "{error}");
    // Links of links, each to be followed below the root.
    let chain = Archive::new()
        .symlink("one", "/two")
        .symlink("two", "../../three")
        .symlink("three", target)
        .file("one/planted", "evil")
        .add(&item(b'1', "stolen").link("one/planted"));
    fixture.ingest(chain).unwrap();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn writing_through_a_link_replaces_the_link() {
    let fixture = Fixture::new();
    let victim = fixture.folder.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    let root = fixture.tree(Archive::new().symlink("x", victim.to_str().unwrap()).file("x", "content"));
    assert_eq!(fs::read(&victim).unwrap(), b"untouched");
    assert_eq!(fs::read(root.join("x")).unwrap(), b"content");
    // A second name of a link is the link, not what it points to.
    let archive = Archive::new().symlink("x", victim.to_str().unwrap()).hard_link("y", "x").file("y", "new");
    fixture.ingest(archive).unwrap();
    assert_eq!(fs::read(&victim).unwrap(), b"untouched");
    // A directory entry at a link does not change the directory behind it.
    let folder = fixture.folder.path().join("folder");
    fs::create_dir(&folder).unwrap();
    let archive =
        Archive::new().symlink("d", folder.to_str().unwrap()).add(&item(b'5', "d").mode(0o777).owner(5, 5));
    let root = fixture.tree(archive);
    assert!(fs::symlink_metadata(root.join("d")).unwrap().is_dir());
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(&folder).unwrap().uid(), rustix::process::geteuid().as_raw());
}

#[test]
fn magic_links_are_not_followed() {
    let fixture = Fixture::new();
    let archive = Archive::new().symlink("root", "/proc/self/root").file("root/tmp/crisp-planted", "evil");
    let root = fixture.tree(archive);
    assert!(root.join("proc/self/root/tmp/crisp-planted").exists());
    assert!(!fs::exists("/tmp/crisp-planted").unwrap());
}

#[test]
fn loops_of_links_end() {
    let fixture = Fixture::new();
    let error = fixture.refusal(Archive::new().symlink("a", "b").symlink("b", "a").file("a/x", ""));
    assert!(error.contains("too many symbolic links") && error.contains("\"a/x\""), "{error}");
    let error = fixture.refusal(Archive::new().symlink("a", "a/b").file("a/x", ""));
    assert!(error.contains("too many symbolic links"), "{error}");
}

#[test]
fn a_file_is_no_folder() {
    let fixture = Fixture::new();
    let error = fixture.refusal(Archive::new().file("a", "").file("a/b/c", ""));
    assert!(error.contains("\"a\" on its way is not a directory"), "{error}");
    let error = fixture.refusal(Archive::new().symlink("l", "f").file("f", "").file("l/x", ""));
    assert!(error.contains("is not a directory"), "{error}");
}

#[test]
fn hard_links_must_have_a_target_in_the_layer() {
    let fixture = Fixture::new();
    for (archive, part) in [
        (Archive::new().hard_link("a", "missing"), "\"missing\" is not in this layer"),
        (Archive::new().hard_link("a", "missing/file"), "\"missing/file\" is not in this layer"),
        (Archive::new().dir("d").hard_link("a", "d"), "\"d\" is a directory"),
        (Archive::new().hard_link("a", "/"), "\"/\" is a directory"),
        (Archive::new().add(&item(b'1', "a")), "the link has no target"),
    ] {
        let error = fixture.refusal(archive);
        assert!(error.contains(part) && error.contains("entry \"a\""), "{error}");
    }
    // The file would go with what makes way for the link.
    let error = fixture.refusal(Archive::new().file("d/f", "x").hard_link("d", "d/f"));
    assert!(error.contains("not in this layer"), "{error}");
    // To itself, directly or by another way: nothing to do, nothing lost.
    let root = fixture.tree(
        Archive::new().file("d/f", "x").hard_link("./d/f", "/d/f").symlink("e", "d").hard_link("e/f", "d/f"),
    );
    assert_eq!(fs::read(root.join("d/f")).unwrap(), b"x");
}

#[test]
fn whiteouts_name_one_thing_in_their_folder() {
    let fixture = Fixture::new();
    for name in [".wh.", ".wh..", ".wh...", "a/.wh..."] {
        let error = fixture.refusal(Archive::new().dir("a").file(name, ""));
        assert!(error.contains("the whiteout names nothing"), "{name}: {error}");
    }
}

#[test]
fn overlay_marks_do_not_come_from_archives() {
    crisp_skip::needs!();
    let fixture = Fixture::new();
    let mut marked = item(b'5', "d");
    for name in ["opaque", "redirect", "metacopy", "origin", "impure", "nlink", "upper", "whiteout"] {
        marked = marked.pax(&format!("SCHILY.xattr.trusted.overlay.{name}"), "y");
        marked = marked.pax(&format!("SCHILY.xattr.user.overlay.{name}"), "y");
    }
    let root = fixture.tree(Archive::new().add(&marked.pax("SCHILY.xattr.user.kept", "yes")));
    let tree = tree::read(&root);
    let xattrs: Vec<_> = tree[std::path::Path::new("d")].xattrs.keys().collect();
    assert_eq!(xattrs, ["user.kept"]);
}

#[test]
fn damaged_archives_are_errors() {
    let fixture = Fixture::new();
    let archive = || Archive::new().dir("d").file("d/f", vec![7; 5000]);
    let whole = archive().tar();
    for cut in [1, 511, 513, 700, 1024, 1025, 3000, 6100] {
        let part = &whole[..cut];
        let error = fixture.store.ingest_layer(&diff_of(part), part);
        match cut {
            // Between entries: a complete archive by itself, caught by the diff id of the real one.
            512 => unreachable!(),
            // The header of the file is whole, its content is not there.
            _ => {
                let error = error.unwrap_err().to_string();
                assert!(error.contains("truncated"), "{cut}: {error}");
            }
        }
    }
    for (archive, part) in [
        (Archive::new().raw(&[7; 512]), "checksum"),
        (Archive::new().raw(b"<html>not found</html>").raw(&[b' '; 600]), "is this a tar archive"),
        (archive().raw(&[0; 512]).file("late", ""), "single zero block"),
        (Archive::new().extension(b'L', b"name without an entry\0"), "truncated"),
        (Archive::new().extension(b'x', b"no length"), "extended header is malformed"),
        (Archive::new().add(&item(b'0', "s").pax("GNU.sparse.major", "1")), "sparse"),
        (Archive::new().add(&item(b'S', "s")), "sparse"),
        (Archive::new().add(&item(b'M', "m")), "type 'M' are not supported"),
        (Archive::new().add(&item(b'0', "")), "the name is empty"),
        (Archive::new().add(&item(b'0', "p").pax("path", "a\0b")), "zero byte"),
        (Archive::new().add(&item(b'0', "u").pax("uid", "4294967295")), "user id"),
        (Archive::new().add(&item(b'0', "u").pax("size", "99999999999999999999")), "size"),
        (Archive::new().add(&item(b'3', "c").device(4096, 0)), "device number"),
        (Archive::new().add(&item(b'4', "b").device(0, 1 << 20)), "device number"),
        (Archive::new().add(&item(b'0', ".")), "only a directory can be the root"),
        (Archive::new().add(&item(b'2', "./").link("/etc")), "only a directory can be the root"),
        (Archive::new().add(&item(b'0', "u").pax("size", "9999999999")), "truncated"),
    ] {
        let error = fixture.refusal(archive);
        assert!(error.contains(part), "expected {part:?} in: {error}");
    }
    let mut bad_number = header(&item(b'0', "n"));
    bad_number[124..136].copy_from_slice(b"12x45678901 ");
    bad_number[148..156].copy_from_slice(b"        ");
    let sum: u32 = bad_number.iter().map(|b| u32::from(*b)).sum();
    bad_number[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let error = fixture.refusal(Archive::new().raw(&bad_number));
    assert!(error.contains("size is not a number"), "{error}");
}

#[test]
fn an_archive_without_its_end_blocks_is_whole_when_its_digest_is() {
    let fixture = Fixture::new();
    let tar = Archive::new().file("a", "x").unfinished();
    let diff = diff_of(&tar);
    fixture.store.ingest_layer(&diff, &tar[..]).unwrap();
    assert_eq!(tree::names(&fixture.layer(&diff)), ["f a"]);
}

#[test]
fn what_follows_the_end_is_hashed_and_not_unpacked() {
    let fixture = Fixture::new();
    let mut tar = Archive::new().file("a", "x").tar();
    tar.extend_from_slice(&[0; 10240]);
    tar.extend_from_slice(&Archive::new().file("b", "hidden").tar());
    tar.extend_from_slice(&vec![b'!'; 700_000]);
    let diff = diff_of(&tar);
    fixture.store.ingest_layer(&diff, &gzip(&tar)[..]).unwrap();
    assert_eq!(tree::names(&fixture.layer(&diff)), ["f a"]);
}

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
fn a_wrong_diff_id_is_refused() {
    let fixture = Fixture::new();
    let tar = Archive::new().file("a", "x").tar();
    let expected = DiffId::parse(&format!("sha256:{}", "0".repeat(64))).unwrap();
    let error = fixture.store.ingest_layer(&expected, &gzip(&tar)[..]).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, IngestError::DiffId { .. }), "{text}");
    assert!(text.contains(expected.as_str()) && text.contains(diff_of(&tar).as_str()), "{text}");
    assert!(!fixture.store.has_layer(&expected));
    fixture.assert_no_leftovers();
}

#[test]
fn damaged_compression_is_told_from_a_damaged_archive() {
    let fixture = Fixture::new();
    let tar = Archive::new().file("a", vec![b'x'; 300_000]).file("b", "y").tar();
    let diff = diff_of(&tar);
    for (compression, compressed) in [("gzip", gzip(&tar)), ("zstd", zstd(&tar))] {
        let mut flipped = compressed.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 0x55;
        let cut = &compressed[..compressed.len() - 5];
        for (what, bytes) in [("flipped", &flipped[..]), ("cut", cut)] {
            let error = fixture.store.ingest_layer(&diff, bytes).unwrap_err();
            // zstd has no checksum of its own by default: what it makes of a changed bit may be wrong.
            let undetected = compression == "zstd" && what == "flipped";
            let archive = matches!(error, IngestError::Archive { .. } | IngestError::DiffId { .. });
            let damaged = matches!(error, IngestError::Decompress { .. }) || (undetected && archive);
            assert!(damaged, "{compression} {what}: {error}");
            fixture.assert_no_leftovers();
        }
    }
    let garbage = [&gzip(&tar)[..], b"garbage"].concat();
    let error = fixture.store.ingest_layer(&diff, &garbage[..]).unwrap_err();
    assert!(matches!(error, IngestError::Decompress { .. }), "{error}");
    let error = fixture.store.ingest_layer(&diff, &b"no such thing"[..]).unwrap_err();
    assert!(matches!(error, IngestError::Archive { .. }), "{error}");
    assert!(!fixture.store.has_layer(&diff));
}

#[test]
fn a_failing_reader_is_reported_with_its_own_words() {
    struct Failing<'a>(&'a [u8]);
    impl std::io::Read for Failing<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            if self.0.is_empty() {
                return Err(std::io::Error::other("the blob's digest is wrong"));
            }
            self.0.read(into)
        }
    }
    let fixture = Fixture::new();
    let tar = Archive::new().file("a", "x").tar();
    for (compression, bytes) in [("gzip", gzip(&tar)), ("zstd", zstd(&tar)), ("none", tar.clone())] {
        // At the very end, and in the middle.
        for bytes in [&bytes[..], &bytes[..20]] {
            let error = fixture.store.ingest_layer(&diff_of(&tar), Failing(bytes)).unwrap_err();
            assert!(matches!(error, IngestError::Source { .. }), "{compression}: {error}");
            assert!(error.to_string().ends_with("the blob's digest is wrong"), "{error}");
            fixture.assert_no_leftovers();
        }
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

#[test]
fn a_link_left_in_the_temporary_folder_is_not_followed() {
    let fixture = Fixture::new();
    let outside = fixture.folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "").unwrap();
    symlink(&outside, fixture.root().join("layers/.trash/77")).unwrap();
    let fixture = fixture.reopen();
    fixture.assert_no_leftovers();
    assert!(outside.join("kept").exists());
}

#[test]
fn changed_archives_neither_crash_nor_escape() {
    let fixture = Fixture::new();
    let outside = fixture.folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "kept").unwrap();
    let before = tree::read(&outside);
    let way = outside.to_str().unwrap();
    let original = Archive::new()
        .dir("./")
        .dir("a")
        .file("a/f", [7; 700])
        .symlink("way", way)
        .file("way/x", "")
        .symlink("a/up", "../../../..")
        .hard_link("h", "a/f")
        .file("a/.wh.gone", "")
        .file("b/.wh..wh..opq", "")
        .add(
            &item(b'0', "p")
                .pax("path", format!("way/{}", "p".repeat(120)))
                .pax("mtime", "1.5")
                .content("xy"),
        )
        .file("l".repeat(150), "long")
        .add(&item(b'2', "way/ll").link("m".repeat(150)))
        .file("way", "instead of the link")
        .tar();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut unpacked = 0;
    for _ in 0..400 {
        let mut tar = original.clone();
        for _ in 0..=random(4) {
            let at = random(tar.len());
            // Bytes that mean something are more dangerous than others.
            tar[at] =
                [0, b'/', b'.', b'1', b'2', b'5', b'x', b'7', 0x80, 0xff, random(256) as u8][random(11)];
        }
        mend(&mut tar);
        let diff = diff_of(&tar);
        unpacked += u32::from(fixture.store.ingest_layer(&diff, &tar[..]).is_ok());
    }
    assert!(unpacked > 30, "only {unpacked} archives were good enough to try anything");
    assert_eq!(tree::read(&outside), before);
}

/// Makes the checksums of changed headers right again, so that the change is looked at.
fn mend(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            block[148..156].copy_from_slice(b"        ");
            let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}
