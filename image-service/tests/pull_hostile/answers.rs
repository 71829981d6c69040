//! Answers of another kind: wrong bytes, pages, statuses, refusals and redirects.

use std::sync::atomic::{AtomicU32, Ordering};

use crisp_image_service::ErrorKind;

use crate::support::image::{Image, OCI_MANIFEST, noise};
use crate::support::server::{Reply, Server};
use crate::support::{Bench, user};
use crate::{APP, image, with_big_blob};

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
