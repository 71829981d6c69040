//! Equal pulls are done once, and a pull does not depend on its clients.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use crisp_image_service::pull::{LayerState, PullStage};
use crisp_image_service::{PullProgress, PullRequest};
use support::Bench;
use support::image::{DOCKER_MANIFEST, Image, Layer, OCI_MANIFEST, Packing, host_architecture, noise};
use support::server::Server;
use tokio::sync::watch;

const APP: &str = "test.example/app:v1";

fn image() -> Image {
    Image::new((0..5).map(|n| Layer::new(&[("f", &noise(n, 300_000))], Packing::Gzip)).collect())
}

/// Every blob takes a while.
async fn slow(images: &[(&str, &Image)]) -> Server {
    Server::start(images, |asked, honest| {
        let mut reply = honest?;
        if asked.is_blob() {
            reply.delay = Duration::from_millis(100);
        }
        Some(reply)
    })
    .await
}

#[tokio::test]
async fn every_kind_of_image_is_unpacked() {
    let layers = vec![
        Layer::new(&[("plain", b"1"), ("same", b"below")], Packing::Plain),
        Layer::new(&[("gzip", b"2"), ("same", b"above")], Packing::Gzip),
        Layer::new(&[("zstd", b"3")], Packing::Zstd),
    ];
    let here = host_architecture();
    let docker = Image::for_platform(layers[..2].to_vec(), DOCKER_MANIFEST, here);
    let oci = Image::for_platform(layers.clone(), OCI_MANIFEST, here);
    let other = Image::for_platform(layers[..1].to_vec(), OCI_MANIFEST, "s390x");
    let index = Image::index(vec![("s390x", other), (here, oci.clone())]);
    let nested = Image::index(vec![(here, index.clone())]);
    let empty = Image::new(vec![]);
    let images =
        [("docker", &docker), ("oci", &oci), ("index", &index), ("nested", &nested), ("empty", &empty)];
    let server = Server::honest(&images).await;
    let bench = Bench::new().await;
    bench.endpoints(&[&server.url()]);
    for (tag, image) in images {
        let name = format!("test.example/app:{tag}");
        let id = bench.pull(&name).await.unwrap();
        let found = bench.images.find(&name).unwrap();
        assert_eq!(found.id, id);
        assert!(
            found.repo_digests.contains(&format!("test.example/app@{}", image.digest)),
            "{tag}: {found:?}"
        );
    }
    assert_eq!(bench.read("test.example/app:index", "zstd").unwrap(), b"3");
    assert_eq!(bench.read("test.example/app:docker", "same").unwrap(), b"above");
    let by_digest = format!("test.example/app@{}", index.digest);
    assert_eq!(bench.pull(&by_digest).await.unwrap().digest(), &oci.config);
    let both = format!("test.example/app:nonsense@{}", docker.digest);
    assert_eq!(bench.pull(&both).await.unwrap().digest(), &docker.config, "the digest decides");
}

#[tokio::test]
async fn an_image_without_a_platform_in_its_configuration_is_pulled() {
    let layers = vec![Layer::new(&[("f", b"1")], Packing::Gzip)];
    let diff = &layers[0].diff;
    let ports = r#""config":{"ExposedPorts":{"80/tcp":null},"Labels":{"a":null}},"#;
    for config in [
        format!(r#"{{"rootfs":{{"diff_ids":["{diff}"]}}}}"#),
        format!(r#"{{{ports}"os":"linux","rootfs":{{"type":"layers","diff_ids":["{diff}"]}}}}"#),
    ] {
        let image = Image::with_config(layers.clone(), OCI_MANIFEST, config.clone().into_bytes());
        let server = Server::honest(&[("v1", &image)]).await;
        let bench = Bench::new().await;
        bench.endpoints(&[&server.url()]);
        let pulled = bench.pull(APP).await;
        assert_eq!(pulled.expect(&config).digest(), &image.config);
        assert_eq!(bench.read(APP, "f").unwrap(), b"1");
    }
}

#[tokio::test]
async fn a_configuration_that_the_store_cannot_read_ends_the_pull_before_its_layers() {
    let layers = vec![Layer::new(&[("f", b"1")], Packing::Gzip)];
    let config = format!(r#"{{"config":{{"Env":"A=1"}},"rootfs":{{"diff_ids":["{}"]}}}}"#, layers[0].diff);
    let image = Image::with_config(layers, OCI_MANIFEST, config.into_bytes());
    let server = Server::honest(&[("v1", &image)]).await;
    let bench = Bench::new().await;
    bench.endpoints(&[&server.url()]);
    let error = bench.pull(APP).await.unwrap_err().to_string();
    assert!(error.contains("config: image configuration") && error.contains("cannot be read"), "{error}");
    assert_eq!(server.asked_for("/blobs/").len(), 1, "no layer is downloaded");
}

#[tokio::test]
async fn the_index_decides_about_the_platform() {
    let layers = vec![Layer::new(&[("f", b"1")], Packing::Gzip)];
    // Built on another machine, and annotated by hand.
    let wrong = Image::for_platform(layers, OCI_MANIFEST, "s390x");
    let index = Image::index(vec![(host_architecture(), wrong.clone())]);
    let alias = match host_architecture() {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        other => other,
    };
    let alias = Image::index(vec![(alias, wrong.clone())]);
    let server = Server::honest(&[("index", &index), ("alias", &alias), ("single", &wrong)]).await;
    let bench = Bench::new().await;
    bench.endpoints(&[&server.url()]);
    assert_eq!(bench.pull("test.example/app:index").await.unwrap().digest(), &wrong.config);
    assert_eq!(bench.pull("test.example/app:alias").await.unwrap().digest(), &wrong.config);
    let error = bench.pull("test.example/app:single").await.unwrap_err().to_string();
    assert!(error.contains("no image for platform") && error.contains("there is linux/s390x"), "{error}");
}

#[tokio::test]
async fn equal_pulls_at_the_same_time_are_one() {
    let image = image();
    let server = slow(&[("v1", &image)]).await;
    let bench = Arc::new(Bench::new().await);
    bench.endpoints(&[&server.url()]);
    let pulls: Vec<_> = (0..8)
        .map(|_| {
            let bench = bench.clone();
            tokio::spawn(async move { bench.pull(APP).await })
        })
        .collect();
    for pull in pulls {
        assert_eq!(pull.await.unwrap().unwrap().digest(), &image.config);
    }
    assert_eq!(server.asked_for("/manifests/").len(), 1);
    assert_eq!(server.asked_for("/blobs/").len(), 6);
    assert!(
        bench.metrics.text().contains(r#"crisp_image_pulls_total{outcome="ok",registry="test.example"} 1"#)
    );
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_the_pull_running_and_its_retry_joins() {
    let image = image();
    let server = slow(&[("v1", &image)]).await;
    let bench = Bench::new().await;
    bench.endpoints(&[&server.url()]);
    let gone = tokio::time::timeout(Duration::from_millis(50), bench.pull(APP)).await;
    assert!(gone.is_err());
    bench.pull(APP).await.unwrap();
    assert_eq!(server.asked_for("/manifests/").len(), 1);
    assert_eq!(server.asked_for("/blobs/").len(), 6);
}

#[tokio::test]
async fn a_layer_of_two_images_is_fetched_once() {
    let image = image();
    let mut more = image.layers.clone();
    more.push(Layer::new(&[("more", b"x")], Packing::Gzip));
    let other = Image::new(more);
    let server = slow(&[("v1", &image), ("v2", &other)]).await;
    let bench = Bench::new().await;
    bench.endpoints(&[&server.url()]);
    let (one, two) = tokio::join!(bench.pull(APP), bench.pull("test.example/app:v2"));
    one.unwrap();
    two.unwrap();
    for layer in &image.layers {
        assert_eq!(server.asked_for(layer.digest.as_str()).len(), 1);
    }
}

#[tokio::test]
async fn a_layer_that_is_in_an_image_twice_is_fetched_once() {
    let layer = Layer::new(&[("f", b"x")], Packing::Gzip);
    let image = Image::new(vec![layer.clone(), Layer::new(&[("g", b"y")], Packing::Gzip), layer.clone()]);
    let server = Server::honest(&[("v1", &image)]).await;
    let bench = Bench::new().await;
    bench.endpoints(&[&server.url()]);
    bench.pull(APP).await.unwrap();
    assert_eq!(server.asked_for(layer.digest.as_str()).len(), 1);
    assert_eq!(bench.images.find(APP).unwrap().diff_ids.len(), 3);
}

#[tokio::test]
async fn what_has_not_changed_is_not_fetched_again() {
    let image = image();
    let server = Server::honest(&[("v1", &image)]).await;
    let bench = Bench::new().await;
    bench.endpoints(&[&server.url()]);
    bench.pull(APP).await.unwrap();
    let before = server.asked().len();
    bench.pull(APP).await.unwrap();
    let after: Vec<_> = server.asked()[before..].iter().map(|a| a.method.clone()).collect();
    assert_eq!(after, ["HEAD"]);
    drop(server);
    let moved = Image::new(image.layers[..2].to_vec());
    let server = Server::honest(&[("v1", &moved)]).await;
    bench.endpoints(&[&server.url()]);
    assert_eq!(bench.pull(APP).await.unwrap().digest(), &moved.config);
    assert_eq!(server.asked_for("/blobs/").len(), 1, "only the configuration is new");
    assert_eq!(bench.images.find(APP).unwrap().id.digest(), &moved.config, "the tag has moved");
}

#[tokio::test]
async fn progress_reaches_the_end() {
    let image = image();
    let server = slow(&[("v1", &image)]).await;
    let bench = Bench::new().await;
    bench.endpoints(&[&server.url()]);
    let first = PullProgress { reference: String::new(), stage: PullStage::Request, layers: Vec::new() };
    let (sender, mut receiver) = watch::channel(first);
    let watching = tokio::spawn(async move {
        let mut states = Vec::new();
        while receiver.changed().await.is_ok() {
            states.push(receiver.borrow_and_update().clone());
        }
        states
    });
    let request = PullRequest { reference: APP.to_owned(), auth: None, pod: None };
    bench.images.pull(&request, Some(&sender)).await.unwrap();
    drop(sender);
    let states = watching.await.unwrap();
    assert!(states.iter().any(|s| s.stage == PullStage::Layers), "{states:?}");
    let last = states.last().unwrap();
    assert_eq!((last.reference.as_str(), &last.stage), (APP, &PullStage::Commit));
    assert_eq!(last.layers.len(), 5);
    for layer in &last.layers {
        assert_eq!((layer.state, layer.received), (LayerState::Done, layer.total));
    }
}

#[tokio::test]
async fn metrics_name_registry_and_endpoint() {
    let image = image();
    let server = Server::honest(&[("v1", &image)]).await;
    let bench = Bench::new().await;
    bench.endpoints(&["http://127.0.0.1:9", &server.url()]);
    bench.pull(APP).await.unwrap();
    let bytes: usize = image.layers.iter().map(|l| l.blob.len()).sum();
    let text = bench.metrics.text();
    let url = server.url();
    for line in [
        format!(r#"crisp_image_endpoint_received_bytes_total{{endpoint="{url}",registry="test.example"}} {bytes}"#),
        r#"crisp_image_endpoint_failures_total{endpoint="http://127.0.0.1:9",kind="unavailable",registry="test.example"}"#.to_owned(),
        r#"crisp_image_pull_duration_seconds_count{registry="test.example"} 1"#.to_owned(),
        "crisp_image_pulls_in_progress 0".to_owned(),
    ] {
        assert!(text.contains(&line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn endpoints_can_be_told_without_a_pull() {
    let bench = Bench::new().await;
    bench.endpoints(&["https://mirror.example", "https://test.example"]);
    let resolution = bench.images.resolve("test.example/app").unwrap();
    let told: Vec<_> = resolution.endpoints.iter().map(ToString::to_string).collect();
    assert!(
        told[0].starts_with("https://mirror.example (mirror, ")
            && told[0].ends_with("test.example/hosts.toml)")
    );
    assert!(told[1].starts_with("https://test.example (server, "), "{told:?}");
    assert!(bench.images.resolve("Bad").is_err());
}

#[tokio::test]
async fn a_pull_renews_an_image_whose_sync_failed_although_other_images_keep_its_layers() {
    use crisp_operation::fault::{Fault, arm};
    let durable = image();
    let config = br#"{"os":"linux","architecture":"amd64","author":"another","rootfs":{"type":"layers","diff_ids":[DIFFS]}}"#;
    let diffs: Vec<String> = durable.layers.iter().map(|layer| format!("\"{}\"", layer.diff)).collect();
    let config = String::from_utf8_lossy(config).replace("DIFFS", &diffs.join(","));
    let config = config.replace("amd64", host_architecture());
    let lost = Image::with_config(durable.layers.clone(), OCI_MANIFEST, config.into_bytes());
    let server = Server::honest(&[("durable", &durable), ("lost", &lost)]).await;
    let bench = Bench::new().await;
    bench.endpoints(&[&server.url()]);
    bench.pull("test.example/app:durable").await.unwrap();
    bench.images.store().sync().unwrap();
    let failing = arm(&format!("sync_images/syncfs@{}", bench.dir.path().display()), Fault::Fail);
    let id = bench.pull("test.example/app:lost").await.unwrap();
    while !bench.images.store().is_sync_failed(&id) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(failing);
    bench.pull("test.example/app:lost").await.unwrap();
    bench.images.store().sync().unwrap();
    let record = bench.dir.path().join("root/images").join(id.hex()).join("record.json");
    let record = std::fs::read_to_string(record).unwrap();
    assert!(!record.contains("unsynced_in"), "the next server would not load it: {record}");
    assert_eq!(server.asked_for("/blobs/").len(), 5 + 1 + 2, "no layer is fetched twice");
}
