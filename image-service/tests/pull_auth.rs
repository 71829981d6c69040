//! Which server gets which credentials, and how registries answer.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crisp_image_service::{Auth, ErrorKind};
use support::image::{Image, Layer, Packing};
use support::server::{Asked, Reply, Server};
use support::{Bench, user};

const APP: &str = "test.example/app:v1";

fn image() -> Image {
    Image::new(vec![
        Layer::new(&[("first", b"one")], Packing::Gzip),
        Layer::new(&[("second", b"two")], Packing::Gzip),
        Layer::new(&[("third", b"three")], Packing::Gzip),
    ])
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// A registry that wants a user name and password.
async fn basic_registry(image: &Image) -> Server {
    let right = basic("ann", "s3cret");
    Server::start(&[("v1", image)], move |asked, honest| {
        if asked.header("authorization") == Some(&right) {
            return honest;
        }
        Some(Reply::new(401).header("www-authenticate", "Basic realm=\"x\""))
    })
    .await
}

/// A token server that gives out `token-N`, and a registry that takes only the newest.
async fn token_registry(image: &Image, uses_per_token: u32, allow: fn(&Asked) -> bool) -> (Server, Server) {
    let issued = Arc::new(AtomicU32::new(0));
    let used = Arc::new(AtomicU32::new(0));
    let for_tokens = (issued.clone(), used.clone());
    let tokens = Server::start(&[], move |asked, _| {
        if !allow(asked) {
            return Some(Reply::new(401).body(r#"{"details":"incorrect username or password"}"#));
        }
        for_tokens.1.store(0, Ordering::SeqCst);
        let n = for_tokens.0.fetch_add(1, Ordering::SeqCst) + 1;
        Some(Reply::new(200).body(format!(r#"{{"token":"token-{n}","expires_in":300}}"#)))
    })
    .await;
    let realm = format!("{}/token", tokens.url());
    let registry = Server::start(&[("v1", image)], move |asked, honest| {
        let newest = format!("Bearer token-{}", issued.load(Ordering::SeqCst));
        let right = asked.header("authorization") == Some(&newest);
        if right && used.fetch_add(1, Ordering::SeqCst) < uses_per_token {
            return honest;
        }
        let challenge = format!("Bearer realm=\"{realm}\",service=\"reg\",scope=\"repository:app:pull\"");
        Some(Reply::new(401).header("www-authenticate", challenge))
    })
    .await;
    (registry, tokens)
}

#[tokio::test]
async fn basic_credentials_open_a_registry() {
    let image = image();
    let server = basic_registry(&image).await;
    let bench = Bench::new().await;
    bench.endpoints(&[&server.url()]);
    bench.pull_as(APP, user("ann", "s3cret")).await.unwrap();
    assert_eq!(bench.read(APP, "third").unwrap(), b"three");
    let unauthorised = server.asked().iter().filter(|a| a.header("authorization").is_none()).count();
    assert_eq!(unauthorised, 1, "asked for credentials once, not for each blob");
    let encoded = Auth { auth: STANDARD.encode("ann:s3cret").into(), ..Auth::default() };
    Bench::new().await.pull_as(APP, encoded.clone()).await.unwrap_err();
    bench.pull_as(APP, encoded).await.unwrap();
}

#[tokio::test]
async fn wrong_and_missing_credentials_are_told_apart_and_not_shown() {
    let image = image();
    let server = basic_registry(&image).await;
    let bench = Bench::new().await;
    bench.endpoints(&[&server.url()]);
    let missing = bench.pull(APP).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Unauthenticated);
    assert!(missing.to_string().contains("the request has no credentials"), "{missing}");
    let wrong = bench.pull_as(APP, user("ann", "wr0ng")).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Unauthenticated);
    assert!(wrong.to_string().contains("answered 401"), "{wrong}");
    assert!(!format!("{wrong} {wrong:?}").contains("wr0ng"));
    assert!(bench.images.list().is_empty());
}

#[tokio::test]
async fn denied_is_not_unauthenticated() {
    let server = Server::start(&[], |_, _| {
        Some(Reply::new(403).body(r#"{"errors":[{"code":"DENIED","message":"not yours"}]}"#))
    })
    .await;
    let bench = Bench::new().await;
    bench.endpoints(&[&server.url()]);
    let error = bench.pull_as(APP, user("ann", "s3cret")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("access denied: DENIED not yours"), "{error}");
}

#[tokio::test]
async fn an_anonymous_token_is_fetched_once() {
    let image = image();
    let (registry, tokens) = token_registry(&image, 1000, |a| a.header("authorization").is_none()).await;
    let bench = Bench::new().await;
    bench.endpoints(&[&registry.url()]);
    bench.pull(APP).await.unwrap();
    let asked = tokens.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].target, "/token?service=reg&scope=repository%3Aapp%3Apull");
    bench.pull(APP).await.unwrap();
    assert_eq!(tokens.asked().len(), 1, "still valid");
}

#[tokio::test]
async fn credentials_buy_a_token_and_go_to_the_token_server_only() {
    let image = image();
    let (registry, tokens) =
        token_registry(&image, 1000, |a| a.header("authorization") == Some(&basic("ann", "s3cret"))).await;
    let bench = Bench::new().await;
    bench.endpoints(&[&registry.url()]);
    bench.pull_as(APP, user("ann", "s3cret")).await.unwrap();
    assert!(
        registry.asked().iter().all(|a| !a.header("authorization").unwrap_or_default().contains("Basic"))
    );
    assert_eq!(tokens.asked().len(), 1);
    let wrong = bench.pull_as(APP, user("ann", "other")).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Unauthenticated, "a token is not shared between users");
    assert!(wrong.to_string().contains(&format!("token server {}", tokens.url())), "{wrong}");
    assert!(wrong.to_string().contains("incorrect username or password"), "{wrong}");
}

#[tokio::test]
async fn a_token_that_expires_in_the_middle_is_renewed() {
    let image = image();
    let (registry, tokens) = token_registry(&image, 3, |_| true).await;
    let bench = Bench::new().await;
    bench.endpoints(&[&registry.url()]);
    bench.pull(APP).await.unwrap();
    assert_eq!(bench.read(APP, "third").unwrap(), b"three");
    assert!(tokens.asked().len() >= 2, "{}", tokens.asked().len());
}

#[tokio::test]
async fn identity_and_registry_tokens_are_used_as_meant() {
    let image = image();
    let (registry, tokens) = token_registry(&image, 1000, |a| {
        a.method == "POST"
            && a.body.contains("grant_type=refresh_token")
            && a.body.contains("refresh_token=re%2Ffresh")
            && a.body.contains("scope=repository%3Aapp%3Apull")
            && a.header("content-type") == Some("application/x-www-form-urlencoded")
    })
    .await;
    let bench = Bench::new().await;
    bench.endpoints(&[&registry.url()]);
    let identity = Auth { identity_token: "re/fresh".into(), ..Auth::default() };
    bench.pull_as(APP, identity).await.unwrap();
    assert_eq!(tokens.asked().len(), 1);
    // token-1 is the newest, so it opens the registry as it is.
    let ready = Auth { registry_token: "token-1".into(), ..Auth::default() };
    bench.pull_as(APP, ready).await.unwrap();
    assert_eq!(tokens.asked().len(), 1);
    let stale = Auth { registry_token: "token-0".into(), ..Auth::default() };
    assert_eq!(bench.pull_as(APP, stale).await.unwrap_err().kind(), ErrorKind::Unauthenticated);
}

#[tokio::test]
async fn a_refresh_token_does_not_follow_a_redirect() {
    let image = image();
    let thief = Server::start(&[], |_, _| Some(Reply::new(200).body(r#"{"token":"x"}"#))).await;
    let target = format!("{}/token", thief.url());
    let tokens =
        Server::start(&[], move |_, _| Some(Reply::new(307).header("location", target.clone()))).await;
    let realm = format!("Bearer realm=\"{}/token\"", tokens.url());
    let registry = Server::start(&[("v1", &image)], move |_, _| {
        Some(Reply::new(401).header("www-authenticate", realm.clone()))
    })
    .await;
    let bench = Bench::new().await;
    bench.endpoints(&[&registry.url()]);
    let identity = Auth { identity_token: "refresh".into(), ..Auth::default() };
    bench.pull_as(APP, identity).await.unwrap_err();
    assert_eq!(tokens.asked().len(), 1);
    assert!(thief.asked().is_empty(), "{:?}", thief.asked());
}

#[tokio::test]
async fn a_mirror_never_sees_the_registrys_credentials() {
    let image = image();
    let mirror = Server::start(&[("v1", &image)], |_, _| {
        Some(Reply::new(401).header("www-authenticate", "Basic realm=\"give me\""))
    })
    .await;
    let registry = basic_registry(&image).await;
    let bench = Bench::new().await;
    bench.endpoints(&[&mirror.url(), &registry.url()]);
    bench.pull_as(APP, user("ann", "s3cret")).await.unwrap();
    let seen = mirror.asked();
    assert!(!seen.is_empty() && seen.iter().all(|a| a.header("authorization").is_none()), "{seen:?}");
    drop(registry);
    let named = Auth { server_address: mirror.url(), ..user("bob", "for-mirror") };
    let error = bench.pull_as("test.example/app:v2", named).await.unwrap_err().to_string();
    assert!(error.contains("(mirror, ") && error.contains("answered 401"), "{error}");
    let sent = mirror
        .asked()
        .iter()
        .filter_map(|a| a.header("authorization").map(str::to_owned))
        .collect::<Vec<_>>();
    assert_eq!(sent, [basic("bob", "for-mirror")], "named by server_address");
}

#[tokio::test]
async fn secrets_do_not_follow_a_redirect_to_another_host() {
    let image = image();
    let store = Server::honest(&[("v1", &image)]).await;
    let elsewhere = store.url();
    let right = basic("ann", "s3cret");
    let registry = Server::start(&[("v1", &image)], move |asked, honest| {
        if asked.header("authorization") != Some(&right) {
            return Some(Reply::new(401).header("www-authenticate", "Basic realm=\"x\""));
        }
        if asked.is_blob() {
            return Some(Reply::new(307).header("location", format!("{elsewhere}{}?sig=abc", asked.path())));
        }
        honest
    })
    .await;
    let bench = Bench::new().await;
    let table = "[header]\nx-secret = \"from the file\"";
    bench.hosts("test.example", &format!("server = \"{}\"\n{table}", registry.url()));
    bench.pull_as(APP, user("ann", "s3cret")).await.unwrap();
    assert!(registry.asked().iter().all(|a| a.header("x-secret") == Some("from the file")));
    assert_eq!(store.asked().len(), 4, "config and layers");
    for asked in store.asked() {
        assert!(asked.header("authorization").is_none() && asked.header("x-secret").is_none(), "{asked:?}");
        assert!(asked.target.ends_with("?sig=abc"));
    }
}

#[tokio::test]
async fn secrets_do_follow_a_redirect_on_the_same_host() {
    let image = image();
    let right = basic("ann", "s3cret");
    let registry = Server::start(&[("v1", &image)], move |asked, honest| {
        if asked.header("authorization") != Some(&right) {
            return Some(Reply::new(401).header("www-authenticate", "Basic realm=\"x\""));
        }
        if asked.is_blob() && !asked.target.contains("moved") {
            return Some(Reply::new(302).header("location", format!("{}?moved", asked.path())));
        }
        honest
    })
    .await;
    let bench = Bench::new().await;
    bench.endpoints(&[&registry.url()]);
    bench.pull_as(APP, user("ann", "s3cret")).await.unwrap();
}

#[tokio::test]
async fn redirects_without_end_are_refused() {
    let server = Server::start(&[], |a, _| Some(Reply::new(302).header("location", a.target.clone()))).await;
    let bench = Bench::new().await;
    bench.endpoints(&[&server.url()]);
    let error = bench.pull(APP).await.unwrap_err().to_string();
    assert!(error.contains("redirect refused: more than 5"), "{error}");
}

#[tokio::test]
async fn mirrors_are_told_which_registry_is_meant() {
    let image = image();
    let mirror = Server::honest(&[("v1", &image)]).await;
    let bench = Bench::new().await;
    let text =
        format!("[host.\"{}\"]\n[host.\"{}\".header]\nx-mirror = [\"a\", \"b\"]", mirror.url(), mirror.url());
    bench.hosts("_default", &text);
    bench.pull("test.example/app:v1").await.unwrap();
    assert!(!mirror.asked().is_empty());
    for asked in mirror.asked() {
        assert!(asked.target.ends_with("?ns=test.example"), "{asked:?}");
        assert!(asked.header("x-mirror").is_some());
    }
}

#[tokio::test]
async fn bad_credentials_and_references_are_the_callers_mistake() {
    let bench = Bench::new().await;
    let error = bench.pull_as(APP, Auth { auth: "%".into(), ..Auth::default() }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().starts_with("pull test.example/app:v1: request: the auth field"), "{error}");
    let error = bench.pull("Bad//ref").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    bench.hosts("test.example", "skip_verfy = true");
    let error = bench.pull(APP).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains("hosts.toml: skip_verfy: is not a supported key"), "{error}");
}
