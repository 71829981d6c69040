//! Manifests, configurations and layers that cannot be used.

use std::time::Duration;

use crisp_image_service::{Digest, ErrorKind};

use crate::support::Bench;
use crate::support::image::{Image, Layer, OCI_MANIFEST, Packing, noise};
use crate::support::server::{Reply, Server};
use crate::{fails, two_layers};

#[tokio::test]
async fn a_manifest_that_is_not_its_digest_is_refused() {
    let image = two_layers();
    let other = Image::new(vec![]);
    let lie = Reply::new(200).header("content-type", OCI_MANIFEST).body(other.manifest.clone());
    let server = Server::start(&[("v1", &image)], move |asked, honest| {
        if asked.target.contains("/manifests/sha256:") { Some(lie.clone()) } else { honest }
    })
    .await;
    let bench = Bench::new().await;
    bench.endpoints(&[&server.url()]);
    let error = bench.pull(&format!("test.example/app@{}", image.digest)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataLoss, "{error}");
    assert!(error.to_string().contains(&format!("expected {}", image.digest)), "{error}");
}

#[tokio::test]
async fn a_config_that_is_not_its_digest_is_refused() {
    let image = two_layers();
    let blob = format!("/blobs/{}", image.config);
    let server = Server::start(&[("v1", &image)], move |asked, honest| {
        let mut reply = honest?;
        if asked.target.contains(&blob) {
            let last = reply.body.len() - 1;
            reply.body[last] = b' ';
        }
        Some(reply)
    })
    .await;
    let bench = Bench::new().await;
    bench.endpoints(&[&server.url()]);
    fails(&bench, ErrorKind::DataLoss, &[": config: ", "with digest sha256:"]).await;
}

#[tokio::test]
async fn a_layer_that_is_not_its_diff_id_is_refused() {
    let mut image_layers = two_layers().layers;
    image_layers[1].diff = Digest::sha256(b"something else");
    let image = Image::new(image_layers);
    let server = Server::honest(&[("v1", &image)]).await;
    let bench = Bench::new().await;
    bench.endpoints(&[&server.url()]);
    let layer = format!("layer {}", image.layers[1].digest);
    fails(&bench, ErrorKind::DataLoss, &[&layer, "does not match the image configuration"]).await;
    assert_eq!(
        server.asked_for(image.layers[1].digest.as_str()).len(),
        1,
        "other endpoints have no better bytes"
    );
}

#[tokio::test]
async fn layers_that_are_no_archives_are_refused() {
    for (tar, packing) in [(noise(3, 4096), Packing::Gzip), (noise(4, 4096), Packing::Plain)] {
        let image = Image::new(vec![Layer::of_tar(&tar, packing)]);
        let server = Server::honest(&[("v1", &image)]).await;
        let bench = Bench::new().await;
        bench.endpoints(&[&server.url()]);
        fails(&bench, ErrorKind::DataLoss, &["layer sha256:"]).await;
    }
}

#[tokio::test]
async fn manifests_that_cannot_be_used_say_why() {
    let good = two_layers();
    let arm = Image::for_platform(good.layers.clone(), OCI_MANIFEST, "s390x");
    let index = Image::index(vec![("s390x", arm.clone()), ("ppc64le", arm.clone())]);
    let from = |json: &str| {
        Image::from_manifest(json.to_owned(), OCI_MANIFEST, good.config.clone(), vec![], good.blobs.clone())
    };
    let short =
        Image::with_config(good.layers.clone(), OCI_MANIFEST, b"{\"rootfs\":{\"diff_ids\":[]}}".to_vec());
    let huge = format!("{{\"x\":\"{}\"}}", "a".repeat(5 << 20));
    for (image, kind, part) in [
        (&arm, ErrorKind::NotFound, "there is linux/s390x"),
        (&index, ErrorKind::NotFound, "there is linux/s390x, linux/ppc64le"),
        (&from(r#"{"schemaVersion":1,"fsLayers":[]}"#), ErrorKind::FailedPrecondition, "schema 1"),
        (&from("{}"), ErrorKind::DataLoss, "without a configuration"),
        (&from(&huge), ErrorKind::DataLoss, "sends more than 4194304 bytes for the manifest"),
        (&short, ErrorKind::DataLoss, "names 0 layers, the manifest 2"),
    ] {
        let server = Server::honest(&[("v1", image)]).await;
        let bench = Bench::new().await;
        bench.endpoints(&[&server.url()]);
        fails(&bench, kind, &[part]).await;
        assert!(
            server.asked_for(good.layers[0].digest.as_str()).is_empty(),
            "no layer is fetched for nothing"
        );
    }
}

#[tokio::test]
async fn one_bad_layer_ends_the_others() {
    let mut layers: Vec<_> =
        (0..6).map(|n| Layer::new(&[("f", &noise(n, 1 << 20))], Packing::Gzip)).collect();
    layers[0].diff = Digest::sha256(b"wrong");
    let image = Image::new(layers);
    let slow = image.layers[1].digest.to_string();
    let server = Server::start(&[("v1", &image)], move |asked, honest| {
        let mut reply = honest?;
        if asked.target.contains(&slow) {
            // It never comes: a layer that is not ended is requested again.
            reply.delay = Duration::from_secs(3600);
        }
        Some(reply)
    })
    .await;
    let bench = Bench::new().await;
    bench.endpoints(&[&server.url()]);
    fails(&bench, ErrorKind::DataLoss, &["does not match the image configuration"]).await;
    let requests = server.asked_for(image.layers[1].digest.as_str());
    assert!(requests.len() <= 1, "{requests:?}");
}
