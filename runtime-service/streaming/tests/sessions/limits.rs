//! The limits on the server's resources that clients can hold, and for how long.

use std::sync::Arc;
use std::time::Duration;

use crisp_streaming::client::{ClientError, ProcessClient};
use crisp_streaming::{
    Limit, Outcome, PortForwardSession, ProcessRequest, ProcessSession, StreamConfig, StreamServer,
};
use futures_util::SinkExt as _;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use super::hostile::{SPDY, request};
use super::process::{ALL, server};
use super::websocket::{Socket, connect, read_all};

async fn server_with(config: StreamConfig) -> StreamServer {
    StreamServer::open(&config).await.unwrap()
}

pub async fn wait(session: ProcessSession) {
    session.gone().await;
}

#[tokio::test]
async fn connections_that_say_nothing_make_room_for_clients() {
    let server = server_with(StreamConfig { max_pending: 4, ..StreamConfig::default() }).await;
    let address = server.base().strip_prefix("http://").unwrap();
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let url = server.process("pod", "exec", ALL, |session| session.finish(Outcome::Exited(3))).unwrap();
    let mut client = ProcessClient::connect(&url, ALL).await.unwrap();
    assert_eq!(client.wait().await.unwrap(), 3);
    // It came after the others and was served before the time limit of any of them.
    for socket in &mut silent[..16] {
        assert_eq!(socket.read(&mut [0]).await.unwrap(), 0);
    }
    let last = silent[19].try_read(&mut [0]);
    assert_eq!(last.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn a_session_beyond_those_of_its_pod_is_refused_and_its_url_stays_good() {
    let config = StreamConfig { sessions: Limit { each: 1, all: 2 }, ..StreamConfig::default() };
    let server = server_with(config).await;
    let url = |pod: &str| server.process(pod, "exec", ALL, wait).unwrap();
    let first = ProcessClient::connect(&url("one"), ALL).await.unwrap();
    let refused = url("one");
    for (url, named) in [(&refused, "of one"), (&refused, "1 streaming session")] {
        let (head, mut rest) = request(url, SPDY).await;
        assert!(head.contains(" 503 "), "{head}");
        let mut text = String::new();
        rest.read_to_string(&mut text).await.unwrap();
        assert!(text.contains(named), "{text}");
    }
    let _other = ProcessClient::connect(&url("two"), ALL).await.unwrap();
    let (head, _) = request(&url("three"), SPDY).await;
    assert!(head.contains(" 503 "), "{head}");
    first.close().await;
    // The slot is free when the server has noticed the end.
    let mut tries = 0;
    while let Err(error) = ProcessClient::connect(&refused, ALL).await {
        assert!(matches!(error, ClientError::Refused { .. }) && tries < 1000, "{error}");
        tries += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_an_unused_url_holds_is_given_back_without_a_further_request() {
    let server =
        server_with(StreamConfig { url_lifetime: Duration::from_millis(1), ..StreamConfig::default() }).await;
    let held = Arc::new(());
    let in_offer = held.clone();
    server.process("pod", "exec", ALL, |_| async move { drop(in_offer) }).unwrap();
    let given_back = async {
        while Arc::strong_count(&held) > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), given_back).await.expect("given back");
}

#[tokio::test]
async fn a_session_in_which_nothing_happens_ends() {
    let server =
        server_with(StreamConfig { idle: Duration::from_millis(100), ..StreamConfig::default() }).await;
    let url = server.process("pod", "exec", ALL, wait).unwrap();
    let mut client = ProcessClient::connect(&url, ALL).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(20), client.wait()).await.expect("over");
    assert!(matches!(end, Err(ClientError::Stream(_))), "{end:?}");
}

#[tokio::test]
async fn a_client_that_reads_nothing_for_a_minute_gets_the_exit_code_then() {
    let server = server().await;
    let (sender, finishing) = tokio::sync::oneshot::channel();
    let url = server.process("pod", "exec", ALL, |mut session: ProcessSession| async move {
        let stdout = session.stdout.as_mut().unwrap();
        // More than the sockets can hold: the rest, and the end after it, wait for the client.
        let flood = async { while stdout.write(&[0; 64 << 10]).await.is_ok() {} };
        assert!(tokio::time::timeout(Duration::from_millis(300), flood).await.is_err());
        sender.send(()).unwrap();
        session.finish(Outcome::Exited(7)).await;
    });
    let mut socket = connect(&url.unwrap(), "v5.channel.k8s.io").await;
    finishing.await.unwrap();
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(60)).await;
    tokio::time::resume();
    let [_, _, _, error, _] = read_all(&mut socket).await;
    let status: serde_json::Value = serde_json::from_slice(&error).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "7");
}

#[tokio::test]
async fn a_client_that_has_everything_and_does_not_close_makes_room_for_others() {
    let config = StreamConfig {
        sessions: Limit { each: 1, all: 1 },
        closing: Duration::from_millis(50),
        ..StreamConfig::default()
    };
    let server = server_with(config).await;
    let url = || {
        let serve = |mut session: ProcessSession| async move {
            session.stdout.as_mut().unwrap().write(&[7; 20_000]).await.unwrap();
            session.finish(Outcome::Exited(7)).await;
        };
        server.process("pod", "exec", ALL, serve).unwrap()
    };
    let mut spdy = ProcessClient::connect(&url(), ALL).await.unwrap();
    assert_eq!(super::process::read_all(spdy.stdout.take().unwrap()).await.len(), 20_000);
    assert_eq!(spdy.wait().await.unwrap(), 7);
    // It is accepted as soon as there is room for it, and reads nothing before it is closed.
    let mut late = connect_when_free(&url(), "v4.channel.k8s.io").await;
    let _next = connect_when_free(&url(), "v4.channel.k8s.io").await;
    let [_, stdout, _, error, _] = read_all(&mut late).await;
    assert_eq!(stdout.len(), 20_000);
    assert!(String::from_utf8(error).unwrap().contains("exit status 7"));
    drop(spdy);
}

async fn connect_when_free(url: &str, protocol: &str) -> Socket {
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if let Some(socket) = super::websocket::try_connect(url, protocol).await {
            return socket;
        }
    }
    panic!("there is no room");
}

/// Without windows, only the kernel's socket buffer stops a client.
#[tokio::test]
async fn a_websocket_whose_input_is_not_read_ends_when_nothing_happens() {
    let server = server_with(StreamConfig { idle: Duration::from_secs(2), ..StreamConfig::default() }).await;
    let (sender, gone) = tokio::sync::oneshot::channel();
    let url = server.process("pod", "exec", ALL, |session: ProcessSession| async move {
        session.gone().await;
        sender.send(()).unwrap();
    });
    let mut socket = connect(&url.unwrap(), "v4.channel.k8s.io").await;
    for _ in 0..20 {
        if socket.send(Message::binary(vec![0; 50_000])).await.is_err() {
            break;
        }
    }
    tokio::time::timeout(Duration::from_secs(30), gone).await.expect("over").unwrap();
}

/// The test advances the clock by half a minute.
#[tokio::test]
async fn a_client_that_does_not_open_all_its_streams_hears_that_it_failed() {
    let server = server().await;
    let url = server.process("pod", "exec", ALL, |session| session.finish(Outcome::Exited(0))).unwrap();
    let fewer = ProcessRequest { stdin: false, ..ALL };
    let mut client = ProcessClient::connect(&url, fewer).await.unwrap();
    // Waits until the streams that the client does open exist.
    tokio::time::sleep(Duration::from_millis(300)).await;
    tokio::time::pause();
    let error = client.wait().await.unwrap_err();
    assert!(matches!(&error, ClientError::Server(text) if text.contains("streams")), "{error:?}");
}

#[tokio::test]
async fn a_port_beyond_the_streams_of_its_pod_is_refused_on_its_error_channel() {
    let server = server_with(StreamConfig { streams: Limit { each: 1, all: 9 }, ..StreamConfig::default() });
    let server = server.await;
    let serve = |mut session: PortForwardSession| async move {
        let first = session.next().await.unwrap();
        assert!(session.next().await.is_none());
        drop(first);
        session.finish().await;
    };
    let url = server.port_forward("pod", vec![1, 2], serve).unwrap();
    let mut socket = connect(&url, "v4.channel.k8s.io").await;
    let [_, first, _, second, _] = read_all(&mut socket).await;
    assert_eq!(first, b"\x01\0");
    assert_eq!(second, [b"\x02\0", &b"too many streams are open"[..]].concat());
}

/// The streams of its pod may be used up by other sessions that forward ports.
#[tokio::test]
async fn a_session_with_a_process_needs_no_stream_of_its_pod() {
    let config = StreamConfig { streams: Limit { each: 0, all: 0 }, ..StreamConfig::default() };
    let server = server_with(config).await;
    let url = server.process("pod", "exec", ALL, |session| session.finish(Outcome::Exited(3))).unwrap();
    assert_eq!(ProcessClient::connect(&url, ALL).await.unwrap().wait().await.unwrap(), 3);
}
