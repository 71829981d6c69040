//! Endpoints that limit, fail or do not have the image.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crisp_image_service::ErrorKind;

use crate::support::Bench;
use crate::support::server::{Reply, Server};
use crate::{APP, fails, pulls, two_layers};

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
