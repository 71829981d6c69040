//! Registries that drip, redirect, lie about numbers, or answer with pages of another kind.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crisp_image_service::ErrorKind;
use support::image::{DOCKER_MANIFEST, Image, Layer, OCI_MANIFEST, Packing, noise};
use support::server::{Reply, Server};
use support::{Bench, user};

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

async fn dripping(image: &Image) -> Server {
    with_big_blob(image, |reply, _| reply.drip = Some(Duration::from_millis(20))).await
}

#[tokio::test]
async fn an_endless_retry_after_does_not_end_the_server() {
    for endless in ["18446744073709551615", "99999999999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"] {
        let server =
            Server::start(&[], move |_, _| Some(Reply::new(429).header("retry-after", endless))).await;
        let bench = Bench::new().await;
        bench.endpoints(&[&server.url()]);
        let error = bench.pull(APP).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
    }
}

#[tokio::test]
async fn absurd_numbers_of_a_registry_end_one_pull_and_nothing_else() {
    let image = image();
    let digest = &image.layers[0].digest;
    let size = format!("\"size\":{}", image.layers[0].blob.len());
    for (what, manifest_size, length, range) in [
        ("a size of 2^64-1", "18446744073709551615", None, None),
        ("a size of 2^63-1", "9223372036854775807", None, None),
        ("a range at 2^64-1", "400000", None, Some("bytes 18446744073709551615-18446744073709551615/*")),
        ("a length of 2^64-2 from a range", "400000", Some("18446744073709551614"), Some("bytes 5-/9")),
    ] {
        let text = String::from_utf8(image.manifest.clone()).unwrap();
        let changed = text.replace(&size, &format!("\"size\":{manifest_size}"));
        assert_ne!(text, changed);
        let lying =
            Image::from_manifest(changed, OCI_MANIFEST, image.config.clone(), vec![], image.blobs.clone());
        let blob = format!("/blobs/{digest}");
        let server = Server::start(&[("v1", &lying)], move |asked, honest| {
            if !asked.target.contains(&blob) || (length.is_none() && range.is_none()) {
                return honest;
            }
            let mut reply = Reply::new(206).header("content-range", range.unwrap());
            if let Some(length) = length {
                reply = reply.header("content-length", length);
            }
            Some(reply.body(b"abc".to_vec()))
        })
        .await;
        let bench = Bench::new().await;
        bench.endpoints(&[&server.url()]);
        bench.pull(APP).await.expect_err(what);
        assert!(bench.images.list().is_empty() && bench.leftovers().is_empty(), "{what}");
    }
}

#[tokio::test]
async fn the_text_of_an_absurd_document_is_cut() {
    let long = "a".repeat(3 << 20);
    let digest = format!("sha256:{}", "0".repeat(64));
    let entry = |platform: &str| {
        format!(r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{digest}","size":1,"platform":{platform}}}"#)
    };
    let many = vec![entry(r#"{"os":"plan9","architecture":"mips"}"#); 10_000].join(",");
    let large = entry(&format!(r#"{{"os":"{long}","architecture":"mips"}}"#));
    let url = format!(r#"{{"digest":"{digest}","size":1,"urls":["{long}"]}}"#);
    let config = format!(r#"{{"digest":"{digest}","size":1}}"#);
    let artifact = format!(r#"{{"mediaType":"{long}","digest":"{digest}","size":1}}"#);
    let (path, item) = (format!("{long}/f"), image().config);
    let header = tar_with_long_name(&path);
    let unpackable = Image::new(vec![Layer::of_tar(&header, Packing::Zstd)]);
    let of =
        |text: String| Image::from_manifest(text, OCI_MANIFEST, item.clone(), vec![], Default::default());
    let with_config = |config: String| Image::with_config(vec![], OCI_MANIFEST, config.into_bytes());
    for (what, image) in [
        ("media type", of(format!(r#"{{"mediaType":"{long}"}}"#))),
        ("number", of(format!(r#"{{"schemaVersion":"{long}"}}"#))),
        ("platforms", of(format!(r#"{{"mediaType":"{OCI_MANIFEST}","manifests":[{many}]}}"#))),
        ("platform", of(format!(r#"{{"manifests":[{large}]}}"#))),
        ("address", of(format!(r#"{{"config":{config},"layers":[{url}]}}"#))),
        ("artifact", of(format!(r#"{{"config":{artifact},"layers":[]}}"#))),
        ("system", with_config(format!(r#"{{"os":"{long}"}}"#))),
        ("variables", with_config(format!(r#"{{"config":{{"Env":"{long}"}}}}"#))),
        ("name in a layer", unpackable),
    ] {
        let server = Server::honest(&[("v1", &image)]).await;
        let bench = Bench::new().await;
        bench.endpoints(&[&server.url()]);
        let error = bench.pull(APP).await.unwrap_err().to_string();
        assert!(error.len() < 4096, "{what}: {} bytes: {}", error.len(), &error[..1000]);
    }
}

/// An archive with one entry whose name is in a pax header.
fn tar_with_long_name(path: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let path = &path[..900_000];
    archive.append_pax_extensions([("path", path.as_bytes())]).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_path("short").unwrap();
    header.set_size(0);
    header.set_cksum();
    archive.append(&header, &[][..]).unwrap();
    archive.into_inner().unwrap()
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

#[tokio::test]
async fn the_endpoint_that_sent_wrong_bytes_in_the_middle_is_found() {
    let image = image();
    let mut wrong = image.layers[0].blob.clone();
    wrong[1000] ^= 1;
    let liar = with_big_blob(&image, move |reply, ranged| {
        if !ranged {
            reply.body = wrong.clone();
            reply.cut_after = Some(100_000);
        }
    })
    .await;
    let registry = Server::honest(&[("v1", &image)]).await;
    let bench = Bench::new().await;
    bench.endpoints(&[&liar.url(), &registry.url()]);
    bench.pull(APP).await.unwrap();
    assert_eq!(bench.read(APP, "big").unwrap(), noise(1, 400_000));
}

#[tokio::test]
async fn a_page_instead_of_a_manifest_is_the_mirrors_failure() {
    let image = image();
    for (kind, body) in [
        ("text/html; charset=utf-8", "<!doctype html><title>Log in to the guest network</title>"),
        ("text/plain", "It works!"),
        ("application/json", "[]"),
        (OCI_MANIFEST, "{\"schemaVersion\":2,"),
    ] {
        let portal =
            Server::start(&[], move |_, _| Some(Reply::new(200).header("content-type", kind).body(body)))
                .await;
        let registry = Server::honest(&[("v1", &image)]).await;
        let bench = Bench::new().await;
        bench.endpoints(&[&portal.url(), &registry.url()]);
        bench.pull(APP).await.unwrap();
        bench.endpoints(&[&portal.url()]);
        let alone = bench.pull("test.example/app:v2").await.unwrap_err();
        assert_eq!(alone.kind(), ErrorKind::Unavailable, "{alone}");
        assert!(alone.to_string().contains("expected a manifest"), "{alone}");
    }
}

#[tokio::test]
async fn statuses_of_a_content_network_may_pass() {
    let image = image();
    for status in [520, 521, 522, 523, 524] {
        let times = AtomicU32::new(0);
        let server = Server::start(&[("v1", &image)], move |asked, honest| {
            let first = asked.is_blob() && times.fetch_add(1, Ordering::Relaxed) == 0;
            if first { Some(Reply::new(status)) } else { honest }
        })
        .await;
        let bench = Bench::new().await;
        bench.endpoints(&[&server.url()]);
        bench.pull(APP).await.unwrap_or_else(|e| panic!("{status}: {e}"));
    }
}

#[tokio::test]
async fn a_mirror_that_refuses_head_is_still_the_first_choice() {
    let image = image();
    let next = Image::new(image.layers[..1].to_vec());
    for status in [404, 405, 500] {
        let mirror = Server::start(&[("v1", &next)], move |asked, honest| {
            if asked.method == "HEAD" { Some(Reply::new(status)) } else { honest }
        })
        .await;
        let first = Server::honest(&[("v1", &image)]).await;
        let bench = Bench::new().await;
        bench.endpoints(&[&first.url()]);
        bench.pull(APP).await.unwrap();
        // The image has changed, so that the digest from the registry leads to a pull.
        let other = Server::honest(&[("v1", &next)]).await;
        bench.endpoints(&[&mirror.url(), &other.url()]);
        assert_eq!(bench.pull(APP).await.unwrap().digest(), &next.config, "{status}");
        assert!(other.asked().iter().all(|a| a.method == "HEAD"), "{status}: {:?}", other.asked());
    }
}

#[tokio::test]
async fn docker_and_oci_names_of_one_kind_can_be_mixed() {
    let image = image();
    let docker =
        Image::for_platform(image.layers.clone(), DOCKER_MANIFEST, support::image::host_architecture());
    for (image, outside) in [(&image, DOCKER_MANIFEST), (&docker, OCI_MANIFEST)] {
        let server = Server::start(&[("v1", image)], move |asked, honest| {
            let mut reply = honest?;
            if asked.target.contains("/manifests/") {
                reply.headers.retain(|(name, _)| name != "content-type");
                reply = reply.header("content-type", outside);
            }
            Some(reply)
        })
        .await;
        let bench = Bench::new().await;
        bench.endpoints(&[&server.url()]);
        bench.pull(APP).await.unwrap();
    }
    let types = ["vnd.docker.image.rootfs.diff.tar.gzip", "vnd.oci.image.layer.v1.tar+gzip"];
    for (image, [from, to]) in [(&docker, types), (&image, [types[1], types[0]])] {
        let manifest = String::from_utf8(image.manifest.clone()).unwrap();
        let changed = manifest.replacen(from, to, 1);
        assert_ne!(manifest, changed);
        let (config, blobs) = (image.config.clone(), image.blobs.clone());
        let mixed = Image::from_manifest(changed, image.media_type, config, vec![], blobs);
        let server = Server::honest(&[("v1", &mixed)]).await;
        let bench = Bench::new().await;
        bench.endpoints(&[&server.url()]);
        bench.pull(APP).await.unwrap();
    }
}

#[tokio::test]
async fn layers_are_unpacked_by_their_content_whatever_their_label_says() {
    let kinds = [(Packing::Plain, "tar", "tar+gzip"), (Packing::Zstd, "tar+zstd", "tar+gzip")];
    for (packing, right, wrong) in kinds.into_iter().chain([(Packing::Gzip, "tar+gzip", "tar")]) {
        let image = Image::new(vec![Layer::new(&[("file", b"content")], packing)]);
        let manifest = String::from_utf8(image.manifest.clone()).unwrap();
        let changed = manifest.replacen(&format!("layer.v1.{right}\""), &format!("layer.v1.{wrong}\""), 1);
        assert_ne!(manifest, changed);
        let mislabelled = Image::from_manifest(
            changed,
            image.media_type,
            image.config.clone(),
            image.layers.clone(),
            image.blobs.clone(),
        );
        let server = Server::honest(&[("v1", &mislabelled)]).await;
        let bench = Bench::new().await;
        bench.endpoints(&[&server.url()]);
        bench.pull(APP).await.unwrap();
        assert_eq!(bench.read(APP, "file").unwrap(), b"content", "{right} labelled {wrong}");
    }
}

#[tokio::test]
async fn a_challenge_from_the_target_of_a_redirect_gets_no_credentials() {
    let image = image();
    let tokens = Server::start(&[], |_, _| Some(Reply::new(200).body(r#"{"token":"x"}"#))).await;
    for challenge in ["Basic realm=\"x\"".to_owned(), format!("Bearer realm=\"{}/token\"", tokens.url())] {
        let target = Server::start(&[], move |_, _| {
            Some(Reply::new(401).header("www-authenticate", challenge.clone()))
        })
        .await;
        let elsewhere = target.url();
        let registry = Server::start(&[("v1", &image)], move |asked, honest| {
            if asked.is_blob() {
                return Some(Reply::new(307).header("location", format!("{elsewhere}{}", asked.path())));
            }
            honest
        })
        .await;
        let bench = Bench::new().await;
        bench.endpoints(&[&registry.url()]);
        let error = bench.pull_as(APP, user("ann", "s3cret")).await.unwrap_err().to_string();
        assert!(error.contains("wants credentials, and they are not sent there"), "{error}");
        assert!(!error.contains("s3cret"));
        assert!(tokens.asked().is_empty(), "{:?}", tokens.asked());
        assert!(target.asked().iter().all(|a| a.header("authorization").is_none()), "{:?}", target.asked());
        assert!(registry.asked().iter().all(|a| a.header("authorization").is_none()));
    }
}

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
