//! Sessions over a WebSocket, with another crate's client.

use std::time::Duration;

use crisp_streaming::{Outcome, PortForwardSession, ProcessSession, StreamConfig, StreamServer};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::hostile::request;
use super::process::{ALL, server};

pub type Socket = WebSocketStream<TcpStream>;

pub async fn connect(url: &str, protocol: &str) -> Socket {
    let headers = format!(
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {protocol}\r\n"
    );
    let (head, socket) = request(url, &headers).await;
    assert!(head.contains("101") && head.contains(&protocol.to_lowercase()), "{head}");
    WebSocketStream::from_raw_socket(socket, Role::Client, None).await
}

/// The bytes of each channel until the server closes, which it does properly.
pub async fn read_all(socket: &mut Socket) -> [Vec<u8>; 5] {
    let mut all: [Vec<u8>; 5] = Default::default();
    loop {
        match socket.next().await.expect("a closing message").unwrap() {
            Message::Binary(bytes) => all[usize::from(bytes[0])].extend_from_slice(&bytes[1..]),
            Message::Text(text) => {
                let channel = text.as_bytes()[0] - b'0';
                all[usize::from(channel)].extend_from_slice(&text.as_bytes()[1..]);
            }
            Message::Close(end) => {
                assert_eq!(u16::from(end.unwrap().code), 1000);
                return all;
            }
            _ => {}
        }
    }
}

/// Sends back what comes until its end.
async fn echo(mut session: ProcessSession) {
    let mut input = session.stdin.take().unwrap();
    while let Ok(Some(bytes)) = input.read().await {
        session.stdout.as_mut().unwrap().write(&bytes).await.unwrap();
    }
    session.stderr.as_mut().unwrap().write(b"over").await.unwrap();
    session.finish(Outcome::Exited(9)).await;
}

/// Ends with what came first.
async fn first(mut session: ProcessSession) {
    let bytes = session.stdin.as_mut().unwrap().read().await.unwrap().unwrap();
    session.stdout.as_mut().unwrap().write(&bytes).await.unwrap();
    session.finish(Outcome::Exited(0)).await;
}

#[tokio::test]
async fn v5_half_closes_stdin_and_ends_with_a_status() {
    let server = server().await;
    let mut socket = connect(&server.process("pod", "exec", ALL, echo).unwrap(), "v5.channel.k8s.io").await;
    for text in ["\0one ", "\0two"] {
        socket.send(Message::binary(text.as_bytes().to_vec())).await.unwrap();
    }
    socket.send(Message::binary(vec![255, 0])).await.unwrap();
    let [_, stdout, stderr, error, _] = read_all(&mut socket).await;
    assert_eq!((stdout, stderr), (b"one two".to_vec(), b"over".to_vec()));
    let status: serde_json::Value = serde_json::from_slice(&error).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "9");
}

#[tokio::test]
async fn the_older_protocols_speak_binary_and_base64() {
    let server = server().await;
    for protocol in ["v4.channel.k8s.io", "channel.k8s.io"] {
        let mut socket = connect(&server.process("pod", "exec", ALL, first).unwrap(), protocol).await;
        // Without meaning before v5.
        socket.send(Message::binary(vec![255, 0])).await.unwrap();
        socket.send(Message::binary(b"\0hello".to_vec())).await.unwrap();
        let [_, stdout, _, error, _] = read_all(&mut socket).await;
        assert_eq!(stdout, b"hello");
        assert_eq!(error.is_empty(), protocol == "channel.k8s.io");
    }
    let url = server.process("pod", "exec", ALL, first).unwrap();
    let mut socket = connect(&url, "v4.base64.channel.k8s.io").await;
    socket.send(Message::text("0aGVsbG8=")).await.unwrap();
    assert_eq!(read_all(&mut socket).await[1], b"aGVsbG8=");
}

#[tokio::test]
async fn fixed_ports_have_two_channels_each_that_begin_with_their_number() {
    let server = server().await;
    let serve = |mut session: PortForwardSession| async move {
        while let Some(mut stream) = session.next().await {
            let bytes = stream.reader.read().await.unwrap().unwrap();
            stream.writer.write(&bytes).await.unwrap();
            stream.error.write(format!("{} is over", stream.port).as_bytes()).await.unwrap();
        }
        session.finish().await;
    };
    let url = server.port_forward("pod", vec![0x1234, 80], serve).unwrap();
    let mut socket = connect(&url, "v4.channel.k8s.io").await;
    socket.send(Message::binary(b"\0first".to_vec())).await.unwrap();
    socket.send(Message::binary(b"\x02second".to_vec())).await.unwrap();
    let [data, error, data2, error2, _] = read_all(&mut socket).await;
    assert_eq!((data, error), (b"\x34\x12first".to_vec(), b"\x34\x124660 is over".to_vec()));
    assert_eq!((data2, error2), (b"\x50\0second".to_vec(), b"\x50\x0080 is over".to_vec()));
}

#[tokio::test]
async fn an_oversized_message_ends_its_session() {
    let server = server().await;
    let mut socket = connect(&server.process("pod", "exec", ALL, echo).unwrap(), "v5.channel.k8s.io").await;
    let _ = socket.send(Message::binary(vec![0; 3 << 20])).await;
    let over = async { while let Some(Ok(_)) = socket.next().await {} };
    tokio::time::timeout(Duration::from_secs(15), over).await.expect("the server hangs up");
}

#[tokio::test]
async fn a_port_that_takes_nothing_does_not_hold_up_the_others() {
    let config = StreamConfig { stalled: Duration::from_millis(50), ..StreamConfig::default() };
    let server = StreamServer::open(&config).await.unwrap();
    let serve = |mut session: PortForwardSession| async move {
        let (stalled, mut other) = (session.next().await.unwrap(), session.next().await.unwrap());
        let bytes = other.reader.read().await.unwrap().unwrap();
        other.writer.write(&bytes).await.unwrap();
        stalled.reader.breakage().wait().await;
        session.finish().await;
    };
    let url = server.port_forward("pod", vec![1, 2], serve).unwrap();
    let mut socket = connect(&url, "v4.channel.k8s.io").await;
    for _ in 0..3 {
        socket.send(Message::binary(vec![0; 100 << 10])).await.unwrap();
    }
    socket.send(Message::binary(b"\x02second".to_vec())).await.unwrap();
    assert_eq!(read_all(&mut socket).await[2], b"\x02\0second");
}
