//! Pulls from registries that lie, cut, stall, refuse and limit.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crisp_image_service::{Digest, ErrorKind};
use support::Bench;
use support::image::{Image, Layer, OCI_MANIFEST, Packing, noise};
use support::server::{Reply, Server};

const APP: &str = "test.example/app:v1";

fn two_layers() -> Image {
    let big = noise(1, 3 << 20);
    Image::new(vec![
        Layer::new(&[("first", b"one"), ("big", &big)], Packing::Gzip),
        Layer::new(&[("second", b"two")], Packing::Gzip),
    ])
}

/// Changes the answer for the biggest layer.
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

#[tokio::test]
async fn a_cut_layer_is_resumed_where_it_was_cut() {
    let image = two_layers();
    let blob = big_blob(&image);
    let times = AtomicU32::new(0);
    let server = Server::start(&[("v1", &image)], move |asked, honest| {
        let mut reply = honest?;
        if asked.target.contains(&blob) && times.fetch_add(1, Ordering::Relaxed) < 2 {
            reply.cut_after = Some(1 << 20);
        }
        Some(reply)
    })
    .await;
    let bench = Bench::new().await;
    bench.endpoints(&[&server.url()]);
    pulls(&bench, &image).await;
    let ranges: Vec<_> =
        server.asked_for(&big_blob(&image)).iter().map(|a| a.header("range").map(str::to_owned)).collect();
    let expected = [None, Some("bytes=1048576-".to_owned()), Some("bytes=2097152-".to_owned())];
    assert_eq!(ranges, expected);
}

#[tokio::test]
async fn a_layer_cut_at_one_endpoint_continues_at_the_next() {
    let image = two_layers();
    let blob = big_blob(&image);
    let mirror = Server::start(&[("v1", &image)], move |asked, honest| {
        let mut reply = honest?;
        if asked.target.contains(&blob) {
            reply.cut_after = Some(1_000_000);
        }
        Some(reply)
    })
    .await;
    let registry = Server::honest(&[("v1", &image)]).await;
    let bench = Bench::new().await;
    bench.endpoints(&[&mirror.url(), &registry.url()]);
    pulls(&bench, &image).await;
    let continued = registry.asked_for(&big_blob(&image));
    assert_eq!(continued.len(), 1);
    assert_eq!(continued[0].header("range"), Some("bytes=1000000-"));
}

#[tokio::test]
async fn a_registry_that_ignores_ranges_can_continue_too() {
    let image = two_layers();
    let (blob, same) = (big_blob(&image), big_blob(&image));
    let whole = image.layers[0].blob.clone();
    let mirror = Server::start(&[("v1", &image)], move |asked, honest| {
        let mut reply = honest?;
        if asked.target.contains(&blob) {
            reply.cut_after = Some(1_000_000);
        }
        Some(reply)
    })
    .await;
    let registry = Server::start(&[("v1", &image)], move |asked, honest| {
        if asked.target.contains(&same) { Some(Reply::new(200).body(whole.clone())) } else { honest }
    })
    .await;
    let bench = Bench::new().await;
    bench.endpoints(&[&mirror.url(), &registry.url()]);
    pulls(&bench, &image).await;
}

#[tokio::test]
async fn a_stalled_layer_continues_at_the_next_endpoint() {
    let image = two_layers();
    let blob = big_blob(&image);
    let mirror = Server::start(&[("v1", &image)], move |asked, honest| {
        let mut reply = honest?;
        if asked.target.contains(&blob) {
            reply.stall_after = Some(500_000);
        }
        Some(reply)
    })
    .await;
    let registry = Server::honest(&[("v1", &image)]).await;
    let bench = Bench::new().await;
    bench.endpoints(&[&mirror.url(), &registry.url()]);
    let started = Instant::now();
    pulls(&bench, &image).await;
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert_eq!(registry.asked_for(&big_blob(&image))[0].header("range"), Some("bytes=500000-"));
}

#[tokio::test]
async fn a_stall_everywhere_ends_with_how_far_it_came() {
    let image = two_layers();
    let blob = big_blob(&image);
    let server = Server::start(&[("v1", &image)], move |asked, honest| {
        let mut reply = honest?;
        if asked.target.contains(&blob) {
            reply.stall_after = Some(if asked.header("range").is_some() { 0 } else { 1000 });
        }
        Some(reply)
    })
    .await;
    let bench = Bench::new().await;
    bench.endpoints(&[&server.url()]);
    let digest = image.layers[0].digest.to_string();
    fails(&bench, ErrorKind::DeadlineExceeded, &["layer ", &digest, "no data for 0.3 s, 1000 of"]).await;
}

#[tokio::test]
async fn corrupt_bytes_of_a_mirror_are_fetched_again_elsewhere() {
    let image = two_layers();
    for (at, what) in [(100, "damaged gzip"), (usize::MAX, "damaged end")] {
        let (blob, mut bytes) = (big_blob(&image), image.layers[0].blob.clone());
        let at = at.min(bytes.len() - 1);
        bytes[at] ^= 0x40;
        let mirror = Server::start(&[("v1", &image)], move |asked, honest| {
            if asked.target.contains(&blob) { Some(Reply::new(200).body(bytes.clone())) } else { honest }
        })
        .await;
        let registry = Server::honest(&[("v1", &image)]).await;
        let bench = Bench::new().await;
        bench.endpoints(&[&mirror.url(), &registry.url()]);
        pulls(&bench, &image).await;
        let again = registry.asked_for(&big_blob(&image));
        assert_eq!(again.len(), 1, "{what}");
        assert_eq!(again[0].header("range"), None, "{what}: from the start");
        let text = bench.metrics.text();
        assert!(text.contains("kind=\"data_loss\""), "{text}");
    }
}

#[tokio::test]
async fn corrupt_bytes_everywhere_are_an_error_that_names_the_layer() {
    let image = two_layers();
    let (blob, mut bytes) = (big_blob(&image), image.layers[0].blob.clone());
    bytes[2000] ^= 1;
    let server = Server::start(&[("v1", &image)], move |asked, honest| {
        if asked.target.contains(&blob) { Some(Reply::new(200).body(bytes.clone())) } else { honest }
    })
    .await;
    let bench = Bench::new().await;
    bench.endpoints(&[&server.url()]);
    let digest = image.layers[0].digest.to_string();
    fails(
        &bench,
        ErrorKind::DataLoss,
        &[&format!("layer {digest}: "), &server.url(), "with digest sha256:", &digest],
    )
    .await;
    assert_eq!(server.asked_for(&big_blob(&image)).len(), 1, "who lied is not asked again");
}

#[tokio::test]
async fn lying_sizes_are_noticed() {
    let image = two_layers();
    let real = image.layers[0].blob.len();
    type Lie = fn(Vec<u8>) -> Reply;
    let lies: [(Lie, &str); 4] = [
        (|b| Reply::new(200).body([b, vec![0; 10]].concat()), "the manifest says"),
        (|b| Reply::new(200).body(b[..100].to_vec()), "sends 100 bytes for blob"),
        (
            |b| {
                let mut reply = Reply::new(200).body([b, vec![0; 10]].concat());
                reply.chunked = true;
                reply
            },
            "sends more than",
        ),
        (
            |b| {
                let mut reply = Reply::new(200).body(b[..100].to_vec());
                reply.chunked = true;
                reply
            },
            "the server says that this was all",
        ),
    ];
    for (lie, part) in lies {
        let (blob, bytes) = (big_blob(&image), image.layers[0].blob.clone());
        let server = Server::start(&[("v1", &image)], move |asked, honest| {
            if asked.target.contains(&blob) { Some(lie(bytes.clone())) } else { honest }
        })
        .await;
        let bench = Bench::new().await;
        bench.endpoints(&[&server.url()]);
        let error = bench.pull(APP).await.unwrap_err().to_string();
        assert!(error.contains(part), "{part} ({real}): {error}");
        assert!(bench.images.list().is_empty() && bench.leftovers().is_empty());
    }
}

#[tokio::test]
async fn limits_are_waited_out() {
    let image = two_layers();
    for (status, after) in [(429, "1"), (503, "1")] {
        let times = AtomicU32::new(0);
        let server = Server::start(&[("v1", &image)], move |asked, honest| {
            let first = asked.target.contains("/manifests/") && times.fetch_add(1, Ordering::Relaxed) == 0;
            if first { Some(Reply::new(status).header("retry-after", after)) } else { honest }
        })
        .await;
        let bench = Bench::new().await;
        bench.endpoints(&[&server.url()]);
        let started = Instant::now();
        pulls(&bench, &image).await;
        assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_limit_beyond_patience_is_an_error_at_once() {
    let image = two_layers();
    let server = Server::start(&[("v1", &image)], |_, _| {
        Some(Reply::new(429).header("retry-after", "3600").body("slow down"))
    })
    .await;
    let bench = Bench::new().await;
    bench.endpoints(&[&server.url()]);
    let started = Instant::now();
    fails(&bench, ErrorKind::ResourceExhausted, &["answered 429: slow down"]).await;
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn every_mirror_is_tried_and_every_reason_told() {
    let image = two_layers();
    let missing = Server::honest(&[]).await;
    let broken = Server::start(&[], |_, _| Some(Reply::new(500).body("<html>oops"))).await;
    let silent = Server::start(&[], |_, _| None).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let closed = format!("http://{closed}");
    let bench = Bench::new().await;
    bench.endpoints(&[&closed, &missing.url(), &broken.url(), &silent.url()]);
    let error = bench.pull(APP).await.unwrap_err();
    let text = error.to_string();
    for part in [
        "pull test.example/app:v1: manifest: ".to_owned(),
        format!("{closed} (mirror, "),
        "hosts.toml): cannot connect: ".to_owned(),
        "onnection refused".to_owned(),
        format!("{} (mirror, ", missing.url()),
        "not found: MANIFEST_UNKNOWN manifest unknown".to_owned(),
        format!("{} (mirror, ", broken.url()),
        "answered 500;".to_owned(),
        format!("{} (server, ", silent.url()),
    ] {
        assert!(text.contains(&part), "{part:?} is not in {text:?}");
    }
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let good = Server::honest(&[("v1", &image)]).await;
    bench.endpoints(&[&closed, &missing.url(), &broken.url(), &silent.url(), &good.url()]);
    pulls(&bench, &image).await;
}

#[tokio::test]
async fn a_registrys_not_found_is_final() {
    let dead = "http://127.0.0.1:9";
    let registry = Server::honest(&[]).await;
    let bench = Bench::new().await;
    bench.endpoints(&[dead, &registry.url()]);
    fails(&bench, ErrorKind::NotFound, &["not found: MANIFEST_UNKNOWN"]).await;
    assert_eq!(registry.asked_for("/manifests/").len(), 1, "asked once, not in rounds");
}

#[tokio::test]
async fn a_dead_mirror_costs_one_failure_and_not_one_per_layer() {
    let image = two_layers();
    let dying =
        Server::start(&[("v1", &image)], |asked, honest| if asked.is_blob() { None } else { honest }).await;
    let registry = Server::honest(&[("v1", &image)]).await;
    let bench = Bench::new().await;
    bench.endpoints(&[&dying.url(), &registry.url()]);
    pulls(&bench, &image).await;
    assert_eq!(dying.asked_for("/blobs/").len(), 1, "{:?}", dying.asked_for("/blobs/"));
}

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

/// A file system of a few megabytes, gone when dropped.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: std::path::PathBuf) -> Option<Self> {
        crisp_skip::needs!("mount", "umount");
        std::fs::create_dir_all(&at).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m,mode=700", "crisp-test"])
            .arg(&at)
            .status();
        assert!(mounted.unwrap().success());
        Some(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_ends_the_pull_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(dir.path().join("root")) else { return };
    let image = two_layers();
    let server = Server::honest(&[("v1", &image)]).await;
    let bench = Bench::at(dir).await;
    bench.endpoints(&[&server.url()]);
    let layer = format!("layer {}", image.layers[0].digest);
    fails(&bench, ErrorKind::ResourceExhausted, &[&layer, "stay free", "remove unused images"]).await;
    assert_eq!(server.asked_for(&big_blob(&image)).len(), 1, "asking again frees no space");
    // Before its mount point is removed with the bench.
    drop(disk);
}
