//! Archives with paths and links out of the layer. Each must be refused by name, or do no harm.

use std::fs;
use std::os::unix::fs::symlink;

use crate::archive::{Archive, item};
use crate::fixture::{Fixture, diff_of};
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
