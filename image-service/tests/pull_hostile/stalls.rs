//! Registries that drip, stop, or cut each connection.

use std::sync::Arc;
use std::time::Duration;

use crisp_image_service::ErrorKind;

use crate::support::Bench;
use crate::support::image::{Image, Layer, Packing, noise};
use crate::support::server::Server;
use crate::{APP, big_blob, image, with_big_blob};

async fn dripping(image: &Image) -> Server {
    with_big_blob(image, |reply, _| reply.drip = Some(Duration::from_millis(20))).await
}

#[tokio::test]
async fn a_mirror_that_drips_is_left_for_the_next_endpoint() {
    let image = image();
    let (mirror, registry) = (dripping(&image).await, Server::honest(&[("v1", &image)]).await);
    let bench = Bench::new().await;
    bench.endpoints(&[&mirror.url(), &registry.url()]);
    let pulled = tokio::time::timeout(Duration::from_secs(20), bench.pull(APP)).await;
    pulled.expect("a drip is a stall").unwrap();
    let continued = registry.asked_for(&big_blob(&image));
    assert!(continued[0].header("range").is_some(), "what has come is used: {continued:?}");
}

#[tokio::test]
async fn a_registry_that_only_drips_is_given_up() {
    let image = image();
    let server = dripping(&image).await;
    let bench = Bench::new().await;
    bench.endpoints(&[&server.url()]);
    let pulled = tokio::time::timeout(Duration::from_secs(40), bench.pull(APP)).await;
    let error = pulled.expect("a drip is a stall").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
    assert!(error.to_string().contains("too slow: "), "{error}");
    assert!(bench.leftovers().is_empty());
}

/// Which layer a pull has is only what its image's configuration claims.
#[tokio::test]
async fn a_layer_that_another_pull_drips_is_fetched_beside_it() {
    let image = image();
    let (evil, good) = (dripping(&image).await, Server::honest(&[("v1", &image)]).await);
    let bench = Arc::new(Bench::new().await);
    bench.hosts("evil.example", &format!("server = \"{}\"", evil.url()));
    bench.endpoints(&[&good.url()]);
    let slow = {
        let bench = bench.clone();
        tokio::spawn(async move { bench.pull("evil.example/app:v1").await })
    };
    while evil.asked_for(&big_blob(&image)).is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let pulled = tokio::time::timeout(Duration::from_secs(10), bench.pull(APP)).await;
    pulled.expect("it does not wait for the other pull").unwrap();
    assert!(!good.asked_for(&big_blob(&image)).is_empty());
    // The layer is there now, so that the other pull needs nothing more of its registry.
    let ended = tokio::time::timeout(Duration::from_secs(10), slow).await;
    ended.expect("the first that has the layer ends the others").unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_that_is_cut_after_each_bit_of_progress_is_continued_to_the_end() {
    let image = image();
    let server = with_big_blob(&image, |reply, _| reply.cut_after = Some(20_000)).await;
    let bench = Bench::new().await;
    bench.endpoints(&[&server.url()]);
    bench.pull(APP).await.unwrap();
    assert!(server.asked_for(&big_blob(&image)).len() > 15);
}

#[tokio::test]
async fn progress_of_single_bytes_is_bounded() {
    let image = image();
    let server = with_big_blob(&image, |reply, _| reply.cut_after = Some(1)).await;
    let bench = Bench::new().await;
    bench.endpoints(&[&server.url()]);
    let pulled = tokio::time::timeout(Duration::from_secs(40), bench.pull(APP)).await;
    let error = pulled.expect("it must not go on for ever").unwrap_err();
    assert!(error.to_string().contains("connection ended early"), "{error}");
}

#[test]
fn pulls_that_wait_for_a_slow_registry_take_no_thread_from_other_work() {
    let threads = 4;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).max_blocking_threads(threads).enable_all().build().unwrap();
    runtime.block_on(async {
        let layers: Vec<_> = (0..4).map(|n| Layer::new(&[("f", &noise(n, 1000))], Packing::Gzip)).collect();
        let image = Image::new(layers);
        let blobs: Vec<String> = image.layers.iter().map(|layer| layer.digest.to_string()).collect();
        let server = Server::start(&[("v1", &image)], move |asked, honest| {
            let mut reply = honest?;
            if blobs.iter().any(|blob| asked.target.contains(blob)) {
                reply.delay = Duration::from_millis(1200);
            }
            Some(reply)
        })
        .await;
        let bench = Bench::new().await;
        bench.endpoints(&[&server.url()]);
        let pull = bench.pull("test.example/app:v1");
        let other = async {
            while server.asked_for("/blobs/").len() < 1 + threads {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::task::spawn_blocking(|| ()).await.unwrap();
            bench.images.store().layers().len()
        };
        let (pulled, layers) = tokio::join!(pull, other);
        pulled.unwrap();
        assert_eq!(layers, 0, "a container's operation waited for a registry");
    });
}
