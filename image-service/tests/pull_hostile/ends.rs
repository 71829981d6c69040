//! Pulls of layers without end: they end when they are cancelled, and with the server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crisp_image_service::ErrorKind;

use crate::APP;
use crate::support::Bench;
use crate::support::image::{Image, Layer, Packing, noise};
use crate::support::server::Server;

/// A registry whose layers never end.
async fn hanging(image: &Image) -> Server {
    Server::start(&[("v1", image)], |asked, honest| {
        let mut reply = honest?;
        if asked.is_blob() && reply.body.len() > 100_000 {
            reply.drip = Some(Duration::from_millis(1));
            reply.drip_bytes = 1000;
        }
        Some(reply)
    })
    .await
}

fn endless() -> Image {
    Image::new(vec![Layer::new(&[("big", &noise(1, 60 << 20))], Packing::Plain)])
}

#[tokio::test]
async fn a_pull_whose_client_has_gone_can_be_cancelled() {
    let image = endless();
    let server = hanging(&image).await;
    let bench = Bench::new().await;
    bench.endpoints(&[&server.url()]);
    let gone = tokio::time::timeout(Duration::from_millis(300), bench.pull(APP)).await;
    assert!(gone.is_err());
    assert_eq!(bench.images.cancel_pulls("test.example/app:other").unwrap(), 0);
    let (joined, cancelled) = tokio::join!(bench.pull(APP), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        bench.images.cancel_pulls(APP).unwrap()
    });
    let error = joined.unwrap_err();
    assert_eq!((cancelled, error.kind()), (1, ErrorKind::Cancelled), "{error}");
    assert!(bench.leftovers().is_empty() && bench.images.list().is_empty());
    assert!(bench.metrics.text().contains("crisp_image_pulls_in_progress 0"));
}

#[tokio::test]
async fn pulls_end_with_the_server() {
    let image = endless();
    let server = hanging(&image).await;
    let bench = Arc::new(Bench::new().await);
    bench.endpoints(&[&server.url()]);
    let pull = {
        let bench = bench.clone();
        tokio::spawn(async move { bench.pull(APP).await })
    };
    while server.asked_for(image.layers[0].digest.as_str()).is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let started = Instant::now();
    bench.images.shut_down(Duration::from_secs(10)).await;
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    assert_eq!(pull.await.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(bench.leftovers().is_empty());
}
