//! Sessions over a WebSocket, with the client of another crate.

use std::time::Duration;

use crisp_streaming::{Outcome, PortForwardSession, ProcessSession, StreamConfig, StreamError, StreamServer};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::hostile::request;
use super::process::{ALL, server};

pub type Socket = WebSocketStream<TcpStream>;

pub async fn connect(url: &str, protocol: &str) -> Socket {
    try_connect(url, protocol).await.expect("an upgrade")
}

/// Returns None when the server refuses.
pub async fn try_connect(url: &str, protocol: &str) -> Option<Socket> {
    let headers = format!(
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {protocol}\r\n"
    );
    let (head, socket) = request(url, &headers).await;
    if !head.contains(" 101 ") {
        return None;
    }
    assert!(head.contains(&protocol.to_lowercase()), "{head}");
    Some(WebSocketStream::from_raw_socket(socket, Role::Client, None).await)
}

/// Reads the bytes of each channel until the server closes, which it does properly.
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

/// Echoes its input until that ends.
async fn echo(mut session: ProcessSession) {
    let mut input = session.stdin.take().unwrap();
    while let Ok(Some(bytes)) = input.read().await {
        session.stdout.as_mut().unwrap().write(&bytes).await.unwrap();
    }
    session.stderr.as_mut().unwrap().write(b"over").await.unwrap();
    session.finish(Outcome::Exited(9)).await;
}

/// Ends with the first bytes of the input.
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
        // This message has no meaning before v5.
        socket.send(Message::binary(vec![255, 0])).await.unwrap();
        socket.send(Message::binary(b"\0hello".to_vec())).await.unwrap();
        let [_, stdout, _, error, _] = read_all(&mut socket).await;
        assert_eq!(stdout, b"hello");
        assert_eq!(error.is_empty(), protocol == "channel.k8s.io");
    }
    for protocol in ["v4.base64.channel.k8s.io", "base64.channel.k8s.io"] {
        let url = server.process("pod", "exec", ALL, first).unwrap();
        let mut socket = connect(&url, protocol).await;
        socket.send(Message::text("0aGVsbG8=")).await.unwrap();
        assert_eq!(read_all(&mut socket).await[1], b"aGVsbG8=");
    }
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
async fn more_ports_than_a_websocket_has_channels_for_are_refused() {
    let server = server().await;
    let serve = |session: PortForwardSession| session.finish();
    let url = server.port_forward("pod", (1..=128).collect(), serve).unwrap();
    assert!(try_connect(&url, "v4.channel.k8s.io").await.is_none());
    // SPDY opens streams by need, also within a WebSocket.
    assert!(try_connect(&url, "SPDY/3.1+portforward.k8s.io").await.is_some());
    let url = server.port_forward("pod", (1..=127).collect(), serve).unwrap();
    assert!(try_connect(&url, "v4.channel.k8s.io").await.is_some());
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

/// Makes a handler that reads stdin to its end, after the client is gone if it is `late`, and reports how it
/// ended.
fn reader_of_stdin(
    late: bool,
) -> (impl FnOnce(ProcessSession) -> Reading + Send, tokio::sync::oneshot::Receiver<Read>) {
    let (sender, read) = tokio::sync::oneshot::channel();
    let serve = move |mut session: ProcessSession| -> Reading {
        Box::pin(async move {
            if late {
                session.gone().await;
            }
            let mut stdin = session.stdin.take().unwrap();
            let mut length = 0;
            let end = loop {
                match stdin.read().await {
                    Ok(Some(bytes)) => length += bytes.len(),
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            session.gone().await;
            sender.send((length, end, session.is_closed())).unwrap();
        })
    };
    (serve, read)
}

type Reading = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;
type Read = (usize, Result<(), StreamError>, bool);

/// Without half closes, a client closes the session to end its input.
#[tokio::test]
async fn a_proper_close_is_the_end_of_the_input_and_loses_none_of_it() {
    // The second size is more than the server takes without reading, the third more than both kernels buffer.
    for (size, late) in [(10_000, true), (150_000, true), (1_000_000, false)] {
        for is_closed in [true, false] {
            let server = server().await;
            let (serve, read) = reader_of_stdin(late);
            let mut socket =
                connect(&server.process("pod", "exec", ALL, serve).unwrap(), "v4.channel.k8s.io").await;
            // The server's greeting is read first: a socket that is closed with unread bytes sends nothing
            // more.
            socket.next().await.unwrap().unwrap();
            for piece in vec![b'x'; size].chunks(50_000) {
                socket.send(Message::binary([b"\0", piece].concat())).await.unwrap();
            }
            if is_closed {
                socket.send(Message::Close(None)).await.unwrap();
            }
            // Closed without waiting for a response.
            drop(socket);
            let (length, end, closed) =
                tokio::time::timeout(Duration::from_secs(20), read).await.expect("gone").unwrap();
            assert_eq!((closed, end.is_ok()), (is_closed, is_closed), "{size}: {end:?}");
            assert!(length == size || !is_closed, "{length} of {size}");
        }
    }
}

#[tokio::test]
async fn long_messages_are_read_and_longer_ones_refused_with_the_reason() {
    let server = server().await;
    let (serve, read) = reader_of_stdin(false);
    let mut socket = connect(&server.process("pod", "exec", ALL, serve).unwrap(), "v4.channel.k8s.io").await;
    socket.next().await.unwrap().unwrap();
    for length in [1 << 20, 5 << 20] {
        socket.send(Message::binary([b"\0".to_vec(), vec![b'x'; length]].concat())).await.unwrap();
    }
    socket.send(Message::Close(None)).await.unwrap();
    drop(socket);
    assert_eq!(read.await.unwrap(), (6 << 20, Ok(()), true));
    let (serve, _read) = reader_of_stdin(false);
    let mut socket = connect(&server.process("pod", "exec", ALL, serve).unwrap(), "v4.channel.k8s.io").await;
    // A binary message of 33 MiB, masked.
    let mut head = vec![0x82, 0xff];
    head.extend_from_slice(&(33u64 << 20).to_be_bytes());
    head.extend_from_slice(&[0; 4]);
    tokio::io::AsyncWriteExt::write_all(socket.get_mut(), &head).await.unwrap();
    let end = loop {
        if let Message::Close(end) = socket.next().await.expect("a closing message").unwrap() {
            break end.unwrap();
        }
    };
    assert!(u16::from(end.code) == 1009 && end.reason.contains("32 MiB"), "{end:?}");
}

/// In v5 there are half closes: a client that closes its session does not want the rest.
#[tokio::test]
async fn a_client_of_v5_that_closes_its_session_has_left() {
    let server = server().await;
    let (serve, read) = reader_of_stdin(false);
    let mut socket = connect(&server.process("pod", "exec", ALL, serve).unwrap(), "v5.channel.k8s.io").await;
    socket.next().await.unwrap().unwrap();
    socket.send(Message::Close(None)).await.unwrap();
    let (_, _, is_closed) = tokio::time::timeout(Duration::from_secs(20), read).await.expect("gone").unwrap();
    assert!(!is_closed);
}
