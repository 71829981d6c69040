//! Clients that break the protocol, over raw sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crisp_streaming::{StreamConfig, StreamServer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::process::{ALL, server};

/// Sends a request as it is; returns the head of the response and the connection.
pub async fn request(url: &str, headers: &str) -> (String, TcpStream) {
    let rest = url.strip_prefix("http://").unwrap();
    let (authority, path) = rest.split_once('/').unwrap();
    let mut socket = TcpStream::connect(authority).await.unwrap();
    let request = format!("POST /{path} HTTP/1.1\r\nHost: {authority}\r\n{headers}\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match socket.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    (String::from_utf8(head).unwrap().to_lowercase(), socket)
}

pub const SPDY: &str =
    "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n";

#[tokio::test]
async fn nothing_is_reachable_without_a_token_and_a_token_is_good_once() {
    let server = server().await;
    let url = server.process("pod", "exec", ALL, |session| async move { session.gone().await }).unwrap();
    let other = format!("{}/exec/{}", server.base(), "0".repeat(32));
    for (url, headers, status) in [
        (&other, SPDY, "404"),
        (&format!("{}/", server.base()), SPDY, "404"),
        (&url, "", "400"),
        (&url, "Connection: Upgrade\r\nUpgrade: h2c\r\n", "400"),
        (
            &url,
            "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v99.channel.k8s.io\r\n",
            "403",
        ),
    ] {
        let (line, _) = request(url, headers).await;
        assert!(line.contains(status), "{url} {headers}: {line}");
    }
    // None of the refused requests used the URL up.
    let (head, _first) = request(&url, SPDY).await;
    assert!(head.contains("101"), "{head}");
    // Clients read only the first header of a name.
    assert_eq!(head.lines().find(|line| line.starts_with("connection:")), Some("connection: upgrade"));
    assert!(head.contains("upgrade: spdy/3.1") && head.contains(": v4.channel.k8s.io"), "{head}");
    let (line, _second) = request(&url, SPDY).await;
    assert!(line.contains("404"), "{line}");
}

#[tokio::test]
async fn a_token_of_another_kind_is_not_good() {
    let server = server().await;
    let url = server.process("pod", "exec", ALL, |session| async move { session.gone().await }).unwrap();
    let forward = url.replace("/exec/", "/portforward/");
    let (line, _) = request(&forward, &SPDY.replace("v4.channel.k8s.io", "portforward.k8s.io")).await;
    assert!(line.contains("404"), "{line}");
}

#[tokio::test]
async fn an_old_url_is_not_good() {
    let config = StreamConfig { url_lifetime: Duration::from_millis(1), ..StreamConfig::default() };
    let server = StreamServer::open(&config).await.unwrap();
    let url = server.process("pod", "exec", ALL, |session| async move { session.gone().await }).unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(request(&url, SPDY).await.0.contains("404"));
}

/// Sends bytes that break the session: it must end soon, and the server must still work.
async fn broken_by(bytes: &[u8]) {
    let server = server().await;
    let served = Arc::new(AtomicBool::new(false));
    let is_served = served.clone();
    let url = server.process("pod", "exec", ALL, move |session| async move {
        is_served.store(true, Ordering::SeqCst);
        session.gone().await;
    });
    let (line, mut socket) = request(&url.unwrap(), SPDY).await;
    assert!(line.contains("101"), "{line}");
    socket.write_all(bytes).await.unwrap();
    let begun = Instant::now();
    // The first bytes of the server, then its end.
    let mut rest = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(5), socket.read_to_end(&mut rest)).await;
    assert!(end.is_ok(), "the connection is still open");
    assert!(!served.load(Ordering::SeqCst), "a session without its streams");
    assert!(begun.elapsed() < Duration::from_secs(5));
    let again = server.process("pod", "exec", ALL, |session| async move { session.gone().await }).unwrap();
    assert!(request(&again, SPDY).await.0.contains("101"));
}

#[tokio::test]
async fn garbage_ends_its_session_only() {
    broken_by(&[0xff; 64]).await;
    // An oversized control frame, a wrong version, and an invalid header block.
    broken_by(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]).await;
    broken_by(&[0x80, 2, 0, 1, 0, 0, 0, 10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await;
    let mut frame = vec![0x80, 3, 0, 1, 0, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    frame.extend_from_slice(&[0xaa; 10]);
    broken_by(&frame).await;
}

#[tokio::test]
async fn a_client_that_opens_no_streams_is_let_go_when_it_closes() {
    let server = server().await;
    let (sender, served) = oneshot::channel::<()>();
    let url = server.process("pod", "exec", ALL, |_session| async move { drop(sender) }).unwrap();
    let (line, socket) = request(&url, SPDY).await;
    assert!(line.contains("101"));
    drop(socket);
    // The handler is dropped unused: the session never began.
    assert!(tokio::time::timeout(Duration::from_secs(5), served).await.unwrap().is_err());
}

#[tokio::test]
async fn pings_that_are_not_read_end_the_session() {
    let server = server().await;
    let url = server.process("pod", "exec", ALL, |session| async move { session.gone().await }).unwrap();
    let (line, mut socket) = request(&url, SPDY).await;
    assert!(line.contains("101"));
    let pings = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1].repeat(100_000);
    let flood = async {
        loop {
            if socket.write_all(&pings).await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), flood).await.expect("the server hangs up");
}
