//! Registries that drip, redirect, lie about numbers, or answer with pages of another kind.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod answers;
mod ends;
mod labels;
mod numbers;
mod stalls;
#[path = "../support/mod.rs"]
mod support;

use support::image::{Image, Layer, Packing, noise};
use support::server::{Reply, Server};

const APP: &str = "test.example/app:v1";

fn image() -> Image {
    Image::new(vec![
        Layer::new(&[("big", &noise(1, 400_000))], Packing::Gzip),
        Layer::new(&[("second", b"two")], Packing::Gzip),
    ])
}

fn big_blob(image: &Image) -> String {
    format!("/blobs/{}", image.layers[0].digest)
}

/// Serves the big layer in the given way.
async fn with_big_blob(image: &Image, change: impl Fn(&mut Reply, bool) + Send + Sync + 'static) -> Server {
    let blob = big_blob(image);
    Server::start(&[("v1", image)], move |asked, honest| {
        let mut reply = honest?;
        if asked.target.contains(&blob) {
            change(&mut reply, asked.header("range").is_some());
        }
        Some(reply)
    })
    .await
}
