//! Archives by GNU tar, which we did not write, in all its formats.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::fixture::{Fixture, diff_of};
use crate::tree;

fn source(root: &Path) {
    let long = root.join("d".repeat(120)).join("e".repeat(120));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("f".repeat(150)), "long name").unwrap();
    fs::write(root.join("plain"), vec![9; 100_000]).unwrap();
    fs::hard_link(root.join("plain"), root.join("plain-again")).unwrap();
    symlink("t".repeat(300), root.join("link")).unwrap();
    fs::write(root.join("ünïcödé"), "name").unwrap();
    fs::set_permissions(root.join("ünïcödé"), fs::Permissions::from_mode(0o6711)).unwrap();
    rustix::fs::chownat(
        rustix::fs::CWD,
        root.join("plain"),
        Some(rustix::fs::Uid::from_raw(2_500_000)),
        Some(rustix::fs::Gid::from_raw(33)),
        rustix::fs::AtFlags::empty(),
    )
    .unwrap();
    let set =
        rustix::fs::setxattr(root.join("plain"), "user.note", b"\x00\x01", rustix::fs::XattrFlags::empty());
    set.unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("zero"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from_raw_mode(0o666),
        rustix::fs::makedev(1, 5),
    )
    .unwrap();
}

fn pack(root: &Path, options: &[&str]) -> Vec<u8> {
    let done = Command::new("tar")
        .args(options)
        .args(["--numeric-owner", "-C"])
        .arg(root)
        .args(["-cf", "-", "."])
        .output();
    let done = done.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

#[test]
fn trees_survive_gnu_tar() {
    crisp_skip::needs!("tar");
    let fixture = Fixture::new();
    let root = fixture.folder.path().join("source");
    fs::create_dir(&root).unwrap();
    source(&root);
    let expected = tree::read(&root);
    for (options, seconds_only, xattrs) in [
        (&["--format=posix", "--xattrs", "--xattrs-include=*"][..], false, true),
        (&["--format=gnu"][..], true, false),
    ] {
        let tar = pack(&root, options);
        let diff = diff_of(&tar);
        fixture.store.ingest_layer(&diff, &tar[..]).unwrap();
        let mut expected = expected.clone();
        for node in expected.values_mut() {
            if seconds_only {
                node.mtime.1 = 0;
            }
            if !xattrs {
                node.xattrs.clear();
            }
        }
        assert_eq!(tree::read(&fixture.layer(&diff)), expected, "{options:?}");
    }
}

#[test]
fn sparse_files_are_refused_clearly() {
    let fixture = Fixture::new();
    let root = fixture.folder.path().join("source");
    fs::create_dir(&root).unwrap();
    let file = fs::File::create(root.join("holes")).unwrap();
    file.set_len(10 << 20).unwrap();
    for format in ["--format=gnu", "--format=posix"] {
        let tar = pack(&root, &[format, "--sparse"]);
        let error = fixture.store.ingest_layer(&diff_of(&tar), &tar[..]).unwrap_err();
        assert!(error.to_string().contains("sparse files are not supported"), "{format}: {error}");
    }
}
