//! Pulls from registries that lie, cut, stall, refuse and limit.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod content;
mod endpoints;
mod full_disk;
#[path = "../support/mod.rs"]
mod support;
mod transfers;

use crisp_image_service::ErrorKind;
use support::Bench;
use support::image::{Image, Layer, Packing, noise};

const APP: &str = "test.example/app:v1";

fn two_layers() -> Image {
    let big = noise(1, 3 << 20);
    Image::new(vec![
        Layer::new(&[("first", b"one"), ("big", &big)], Packing::Gzip),
        Layer::new(&[("second", b"two")], Packing::Gzip),
    ])
}

/// The path of the biggest layer.
fn big_blob(image: &Image) -> String {
    format!("/blobs/{}", image.layers[0].digest)
}

async fn pulls(bench: &Bench, image: &Image) {
    let id = bench.pull(APP).await.unwrap();
    assert_eq!(id.digest(), &image.config);
    assert_eq!(bench.read(APP, "first").unwrap(), b"one");
    assert_eq!(bench.read(APP, "second").unwrap(), b"two");
    assert_eq!(bench.leftovers(), Vec::<std::path::PathBuf>::new());
}

async fn fails(bench: &Bench, kind: ErrorKind, parts: &[&str]) {
    let error = bench.pull(APP).await.unwrap_err();
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    assert_eq!(error.kind(), kind, "{text}");
    assert_eq!(bench.leftovers(), Vec::<std::path::PathBuf>::new());
    assert!(bench.images.list().is_empty());
}
