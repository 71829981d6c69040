//! Deletions, seen through a real overlay mount.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crisp_image_service::DiffId;
use crisp_image_service::store::NewImage;

use crate::archive::{Archive, item};
use crate::fixture::{Fixture, document, image};
use crate::tree;

/// The files that a container of these layers, bottom first, sees.
fn merged(fixture: &Fixture, layers: &[DiffId]) -> Vec<String> {
    let lease = fixture.store.lease(layers).unwrap();
    let mut folders: Vec<PathBuf> = lease.layer_paths().to_vec();
    // Overlay wants two; an empty one at the bottom changes nothing.
    let empty = fixture.folder.path().join("empty");
    fs::create_dir_all(&empty).unwrap();
    folders.push(empty);
    let at = fixture.folder.path().join("merged");
    fs::create_dir_all(&at).unwrap();
    let lower: Vec<&str> = folders.iter().map(|path| path.to_str().unwrap()).collect();
    let options = format!("ro,lowerdir={}", lower.join(":"));
    let mounted = Mounted::new(&at, &options);
    let names = tree::names(&at);
    drop(mounted);
    names
}

/// An overlay, for as long as this lives.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(at: &'a Path, options: &str) -> Self {
        let done =
            Command::new("mount").args(["-t", "overlay", "overlay", "-o", options]).arg(at).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Self(at)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::empty()).unwrap();
    }
}

fn check(name: &str, layers: Vec<Archive>, expected: &[&str]) {
    crisp_skip::needs!("mount");
    let fixture = Fixture::new();
    let layers: Vec<DiffId> = layers.into_iter().map(|layer| fixture.ingest(layer).unwrap()).collect();
    assert_eq!(merged(&fixture, &layers), expected, "{name}");
}

fn base() -> Archive {
    Archive::new()
        .dir("d")
        .file("d/one", "1")
        .file("d/two", "2")
        .dir("d/e")
        .file("d/e/three", "3")
        .file("f", "4")
}

#[test]
fn a_whiteout_hides_a_file_and_a_folder() {
    let top = Archive::new().file(".wh.f", "").dir("d").file("d/.wh.e", "").file("d/new", "");
    check("a_whiteout_hides", vec![base(), top], &["d d", "f d/new", "f d/one", "f d/two"]);
}

#[test]
fn an_opaque_folder_hides_all_that_was_in_it_and_nothing_of_its_own() {
    for opaque_first in [true, false] {
        let mut top = Archive::new().dir("d");
        if opaque_first {
            top = top.file("d/.wh..wh..opq", "").file("d/new", "");
        } else {
            top = top.file("d/new", "").file("d/.wh..wh..opq", "");
        }
        check("an_opaque_folder", vec![base(), top], &["d d", "f d/new", "f f"]);
    }
}

#[test]
fn an_opaque_root_hides_all_layers_below() {
    let top = Archive::new().file(".wh..wh..opq", "").file("only", "");
    let above = Archive::new().file("more", "");
    check("an_opaque_root", vec![base(), top, above], &["f more", "f only"]);
}

#[test]
fn an_opaque_root_survives_save_and_load() {
    crisp_skip::needs!("mount");
    let fixture = Fixture::new();
    let top = Archive::new().file(".wh..wh..opq", "").file("only", "");
    let layers = [fixture.ingest(base()).unwrap(), fixture.ingest(top).unwrap()];
    let config = serde_json::json!({ "rootfs": { "diff_ids": layers.each_ref().map(DiffId::as_str) } });
    let new = NewImage {
        config: document(config.to_string()),
        ..image("app:v1", &layers.each_ref(), "for any platform")
    };
    fixture.store.commit_image(new).unwrap();
    let mut archive = Vec::new();
    fixture.store.save(&["app:v1".to_owned()], &mut archive).unwrap();
    let other = Fixture::new();
    let loaded = other.store.load(&archive[..]).unwrap();
    assert_eq!(merged(&other, &loaded[0].diff_ids), ["f only"]);
    // The same archive again.
    let mut again = Vec::new();
    other.store.save(&["app:v1".to_owned()], &mut again).unwrap();
    assert!(archive == again, "a loaded image has other digests when it is saved");
}

#[test]
fn whiteouts_are_about_the_layers_below_only() {
    // The same layer hides what was there and brings its own, in either order.
    for (name, top) in [
        ("file, then whiteout", Archive::new().file("f", "new").file(".wh.f", "")),
        ("whiteout, then file", Archive::new().file(".wh.f", "").file("f", "new")),
    ] {
        check(name, vec![base(), top], &["d d", "d d/e", "f d/e/three", "f d/one", "f d/two", "f f"]);
    }
    for (name, top) in [
        ("folder, then whiteout", Archive::new().dir("d").file("d/new", "").file(".wh.d", "")),
        ("whiteout, then folder", Archive::new().file(".wh.d", "").dir("d").file("d/new", "")),
        ("whiteout, then something in it", Archive::new().file(".wh.d", "").file("d/new", "")),
        ("link to it", Archive::new().file(".wh.d", "").symlink("l", "d").file("l/new", "")),
    ] {
        let fixture = Fixture::new();
        crisp_skip::needs!("mount");
        let layers = [fixture.ingest(base()).unwrap(), fixture.ingest(top).unwrap()];
        let mut seen = merged(&fixture, &layers);
        seen.retain(|entry| entry != "l l");
        assert_eq!(seen, ["d d", "f d/new", "f f"], "{name}");
    }
}

#[test]
fn a_name_comes_back_in_a_later_layer() {
    let gone = Archive::new().file(".wh.f", "").file(".wh.d", "");
    let back = Archive::new().file("f", "new").dir("d").file("d/new", "");
    check("a_name_comes_back", vec![base(), gone, back], &["d d", "f d/new", "f f"]);
}

#[test]
fn bookkeeping_of_aufs_is_nothing() {
    let top =
        Archive::new().dir(".wh..wh.plnk").file(".wh..wh.plnk/1.2", "").file(".wh..wh.aufs", "").dir("d");
    check("bookkeeping", vec![base(), top], &["d d", "d d/e", "f d/e/three", "f d/one", "f d/two", "f f"]);
}

#[test]
fn whiteouts_in_an_opaque_folder_leave_no_broken_names() {
    let top = Archive::new().dir("d").file("d/.wh.one", "").file("d/.wh..wh..opq", "").file("d/.wh.two", "");
    check("whiteouts_in_an_opaque_folder", vec![base(), top], &["d d", "f f"]);
}

#[test]
fn types_change_between_layers() {
    let top = Archive::new().dir("f").file("f/in", "").symlink("d", "f").add(&item(b'6', "p"));
    check("types_change", vec![base(), top], &["l d", "d f", "f f/in", "p p"]);
}

#[test]
fn the_same_layer_twice_is_mounted_once() {
    let empty = Archive::new();
    let change = Archive::new().file(".wh.f", "");
    check(
        "the_same_layer_twice",
        vec![base(), empty.clone(), change, empty],
        &["d d", "d d/e", "f d/e/three", "f d/one", "f d/two"],
    );
}
