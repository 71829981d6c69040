//! Transfers of layers that are cut, stall, or arrive with wrong bytes.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crisp_image_service::ErrorKind;

use crate::support::Bench;
use crate::support::server::{Reply, Server};
use crate::{APP, big_blob, fails, pulls, two_layers};

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
