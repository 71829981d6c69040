//! PortForward over a WebSocket with fixed ports: two channels for each, for data and for errors.

use std::time::Duration;

use crisp_proto::runtime::v1 as proto;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use tonic::Request;

use crate::lab::{Lab, lab};

/// A client, with the bytes of each channel so far.
struct Client {
    socket: WebSocketStream<TcpStream>,
    channels: [Vec<u8>; 4],
}

impl Client {
    async fn connect(lab: &Lab, pod: &str, ports: [u16; 2]) -> Self {
        let port = ports.map(i32::from).to_vec();
        let request = proto::PortForwardRequest { pod_sandbox_id: pod.into(), port };
        let url = lab.service.port_forward(Request::new(request)).await.unwrap().into_inner().url;
        let (authority, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let mut socket = TcpStream::connect(authority).await.unwrap();
        let head = format!(
            "GET /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        let socket = WebSocketStream::from_raw_socket(socket, Role::Client, None).await;
        let mut client = Self { socket, channels: Default::default() };
        for (number, port) in ports.into_iter().enumerate() {
            for channel in [2 * number, 2 * number + 1] {
                assert_eq!(client.take(channel, 2).await, port.to_le_bytes(), "channel {channel}");
            }
        }
        client
    }

    async fn send(&mut self, channel: u8, data: &[u8]) {
        self.socket.send(Message::binary([&[channel], data].concat())).await.unwrap();
    }

    /// Reads until the channel has this many bytes, and takes all of it.
    async fn take(&mut self, channel: usize, length: usize) -> Vec<u8> {
        let read = async {
            while self.channels[channel].len() < length {
                match self.socket.next().await.expect("the session goes on").unwrap() {
                    Message::Binary(bytes) => self.channels[usize::from(bytes[0])].extend(&bytes[1..]),
                    other => assert!(!other.is_close(), "the session ends"),
                }
            }
        };
        let read = tokio::time::timeout(Duration::from_secs(20), read).await;
        assert!(read.is_ok(), "{length} bytes on channel {channel}: {:?}", self.channels);
        std::mem::take(&mut self.channels[channel])
    }

    async fn echoes(&mut self, channel: u8, data: &[u8]) {
        self.send(channel, data).await;
        assert_eq!(self.take(channel.into(), data.len()).await, data);
    }
}

/// Returns the port of a server that echoes.
async fn echo() -> (u16, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let (mut from, mut to) = socket.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
    };
    (port, tokio::spawn(serve))
}

#[tokio::test]
async fn a_refused_port_is_reported_on_its_error_channel_and_the_other_goes_on() {
    let lab = lab!();
    let pod = lab.pod("ws-refused").await;
    for refused in [0, 2] {
        let (port, server) = echo().await;
        let ports = if refused == 0 { [1, port] } else { [port, 1] };
        let mut client = Client::connect(&lab, &pod, ports).await;
        let error = String::from_utf8(client.take(usize::from(refused) + 1, 1).await).unwrap();
        assert!(error.contains("port 1 ") && error.contains("refused"), "{error}");
        client.echoes(2 - refused, b"one").await;
        // More than may wait for a reader: it must be discarded.
        for _ in 0..8 {
            client.send(refused, &[0; 64 << 10]).await;
        }
        client.echoes(2 - refused, b"two").await;
        assert!(client.channels.iter().all(Vec::is_empty), "{:?}", client.channels);
        server.abort();
    }
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_reset_port_is_reported_on_its_error_channel_and_the_other_goes_on() {
    let lab = lab!();
    let pod = lab.pod("ws-reset").await;
    // The second time the server writes while the connection is reset; the kernel may then report the reset to that write.
    for is_written in [false, true] {
        let (echoing, server) = echo().await;
        let resetting = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = resetting.local_addr().unwrap().port();
        let mut client = Client::connect(&lab, &pod, [port, echoing]).await;
        client.echoes(2, b"before").await;
        client.send(0, b"hello").await;
        let (mut in_pod, _) = resetting.accept().await.unwrap();
        in_pod.read_u8().await.unwrap();
        if is_written {
            client.send(0, &[0; 256 << 10]).await;
        }
        // With input unread, its end is a reset.
        drop(in_pod);
        let error = String::from_utf8(client.take(1, 1).await).unwrap();
        assert!(error.contains(&format!("port {port} ")) && error.contains("reset"), "{error}");
        client.echoes(2, b"after").await;
        assert!(client.channels.iter().all(Vec::is_empty), "{:?}", client.channels);
        server.abort();
    }
    lab.remove_pod(&pod).await;
}

/// There is no way to say that one port has ended: its proper end is not an error.
#[tokio::test]
async fn a_port_that_ends_properly_is_no_error_and_the_other_goes_on() {
    let lab = lab!();
    let pod = lab.pod("ws-end").await;
    let listeners =
        [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
    let [first, second] = [&listeners[0], &listeners[1]];
    let ports = [first.local_addr().unwrap().port(), second.local_addr().unwrap().port()];
    let mut client = Client::connect(&lab, &pod, ports).await;
    let (mut in_first, _) = first.accept().await.unwrap();
    in_first.write_all(b"bye").await.unwrap();
    drop(in_first);
    assert_eq!(client.take(0, 3).await, b"bye");
    let (mut in_second, _) = second.accept().await.unwrap();
    in_second.write_all(b"still here").await.unwrap();
    assert_eq!(client.take(2, 10).await, b"still here");
    // The port answers the first of these with a reset, and the server's next write to it fails.
    for _ in 0..3 {
        client.send(0, b"too late").await;
        in_second.write_all(b"on").await.unwrap();
        assert_eq!(client.take(2, 2).await, b"on");
    }
    assert!(client.channels.iter().all(Vec::is_empty), "{:?}", client.channels);
    // The client waits for the end of the session: it cannot end a port alone.
    drop(in_second);
    let end = tokio::time::timeout(Duration::from_secs(20), client.socket.next()).await;
    assert!(end.expect("the session ends with its last port").unwrap().unwrap().is_close());
    lab.remove_pod(&pod).await;
}

/// The end of the client's own reading is not the end of the port.
#[tokio::test]
async fn what_a_client_sent_before_it_closed_comes_to_a_slow_port_complete() {
    const LENGTH: usize = 8 << 20;
    let lab = lab!();
    let pod = lab.pod("ws-slow").await;
    let listeners =
        [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
    let ports = [0, 1].map(|at: usize| listeners[at].local_addr().unwrap().port());
    let mut client = Client::connect(&lab, &pod, ports).await;
    let (mut in_pod, _) = listeners[0].accept().await.unwrap();
    let upload = async {
        for _ in 0..LENGTH >> 16 {
            client.send(0, &[7; 1 << 16]).await;
        }
        client.socket.close(None).await.unwrap();
    };
    let port = async {
        // More than what the kernel holds for a port that does not read is still on its way then.
        tokio::time::sleep(Duration::from_millis(500)).await;
        in_pod.write_all(b"a").await.unwrap();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let mut bytes = Vec::new();
        in_pod.read_to_end(&mut bytes).await.unwrap();
        bytes.len()
    };
    let both = async { tokio::join!(upload, port).1 };
    let read = tokio::time::timeout(Duration::from_secs(20), both).await;
    assert_eq!(read.expect("the upload ends"), LENGTH);
    lab.remove_pod(&pod).await;
}
