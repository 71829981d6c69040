//! The client against servers that close differently, and through a WebSocket that carries SPDY, as kubectl
//! does.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::{ClientError, Endpoint, PORT_FORWARD, PortForwardClient, ProcessClient, connect, read_only};
use crate::process::{Outcome, ProcessRequest, ProcessSession};
use crate::server::{StreamConfig, StreamServer};
use crate::spdy::{self, Rules, Running};
use crate::stream::{StreamError, StreamReader};
use crate::transport::{self, IdleLimits};
use crate::{PortForwardSession, PortStream};

const ALL: ProcessRequest = ProcessRequest { stdin: true, stdout: true, stderr: true, tty: false };

/// Serves as the library of Kubernetes does for containerd and CRI-O: it sends the status and then resets
/// every stream.
async fn wait_for(status: &'static str) -> Result<i32, ClientError> {
    let server = StreamServer::open(&StreamConfig::default()).await.unwrap();
    let serve = move |mut session: ProcessSession| async move {
        session.error.write(status.as_bytes()).await.unwrap();
        let ProcessSession { stdin, stdout, stderr, error, carrier, .. } = session;
        drop((stdin, stdout, stderr, error));
        carrier.finish().await;
    };
    let url = server.process("pod", "exec", ALL, serve).unwrap();
    let mut client = ProcessClient::connect(&url, ALL).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), client.wait()).await.expect("the end")
}

#[tokio::test]
async fn a_whole_status_counts_though_the_streams_are_reset_behind_it() {
    assert_eq!(wait_for(r#"{"metadata":{},"status":"Success"}"#).await.unwrap(), 0);
    let failure = r#"{"status":"Failure","reason":"NonZeroExitCode",
        "details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
    assert_eq!(wait_for(failure).await.unwrap(), 3);
    let error = wait_for(r#"{"status":"Failure","reason":"InternalError","message":"no such file"}"#).await;
    assert!(matches!(&error, Err(ClientError::Server(text)) if text == "no such file"), "{error:?}");
    for cut_short in ["", r#"{"status":"Succ"#] {
        let error = wait_for(cut_short).await;
        assert!(matches!(error, Err(ClientError::Stream(StreamError::Reset))), "{error:?}");
    }
}

/// Copies bytes between the messages of a WebSocket and `io`, with pings in between, until one side closes.
async fn pump(mut socket: WebSocketStream<TcpStream>, mut io: DuplexStream) {
    let mut buffer = vec![0; 50_000];
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Binary(bytes))) => io.write_all(&bytes).await.unwrap(),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
            read = io.read(&mut buffer) => match read {
                Ok(bytes @ 1..) => {
                    socket.send(Message::Ping("between".into())).await.unwrap();
                    socket.send(Message::binary(buffer[..bytes].to_vec())).await.unwrap();
                }
                Ok(_) | Err(_) => {
                    let _ = socket.send(Message::Close(None)).await;
                    while let Some(Ok(_)) = socket.next().await {}
                    return;
                }
            },
        }
    }
}

/// Starts a server that forwards ports over SPDY in a WebSocket.
async fn tunnel(url: &str) -> PortForwardClient {
    let (authority, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut socket = TcpStream::connect(authority).await.unwrap();
    let request = format!(
        "GET /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.contains(" 101 ") && head.contains("SPDY/3.1+portforward.k8s.io"), "{head}");
    let hangup = transport::prepare(&socket, IdleLimits::default());
    let socket = WebSocketStream::from_raw_socket(socket, Role::Client, None).await;
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    tokio::spawn(pump(socket, theirs));
    let (rules, read) = (Rules::default(), BytesMut::new());
    let (running, _) = Running::start(spdy::Role::Client, rules, Box::new(ours), read, hangup, 1);
    PortForwardClient { next: AtomicU64::new(0), running }
}

/// Echoes on port 80 and refuses all other ports; port 1 ends the session.
async fn serve(mut session: PortForwardSession, gone: tokio::sync::oneshot::Sender<()>) {
    while let Some(stream) = session.next().await {
        let PortStream { port, mut reader, mut writer, mut error, .. } = stream;
        match port {
            1 => {
                session.finish().await;
                return;
            }
            80 => {
                while let Some(bytes) = reader.read().await.unwrap() {
                    writer.write(&bytes).await.unwrap();
                }
                writer.close().await.unwrap();
            }
            _ => error.write(b"refused").await.unwrap(),
        }
        error.close().await.unwrap();
    }
    session.gone().await;
    let _ = gone.send(());
}

async fn read_all(mut reader: StreamReader) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(bytes) = reader.read().await.unwrap() {
        all.extend_from_slice(&bytes);
    }
    all
}

#[tokio::test]
async fn ports_are_forwarded_through_a_websocket_that_carries_spdy() {
    let server = StreamServer::open(&StreamConfig::default()).await.unwrap();
    for closes_first in ["client", "server"] {
        let (sender, gone) = tokio::sync::oneshot::channel();
        let url = server.port_forward("pod", vec![], |session| serve(session, sender)).unwrap();
        let client = tunnel(&url).await;
        let sent: Vec<u8> = (0..1_000_000).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let mut echo = client.open(80).unwrap();
        let send = async {
            echo.writer.write(&sent).await.unwrap();
            echo.writer.close().await.unwrap();
        };
        let ((), back) = tokio::join!(send, read_all(echo.reader));
        assert!(back == sent, "{} of {}", back.len(), sent.len());
        assert_eq!(read_all(echo.error).await, b"");
        assert_eq!(read_all(client.open(81).unwrap().error).await, b"refused");
        let end = async {
            if closes_first == "client" {
                client.running.finish().await;
                gone.await.unwrap();
            } else {
                let _last = client.open(1).unwrap();
                client.gone().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), end).await.expect(closes_first);
    }
}

/// Copies one piece of stdin to stdout, then ends with `code`.
async fn pass_on(mut session: ProcessSession, code: i32) {
    let word = session.stdin.as_mut().unwrap().read().await.unwrap().unwrap();
    session.stdout.as_mut().unwrap().write(&word).await.unwrap();
    if let Some(stderr) = &mut session.stderr {
        stderr.write(b"aside").await.unwrap();
    }
    session.finish(Outcome::Exited(code)).await;
}

/// Returns the message on the error stream for a process that ends with `code`, as a client of the protocol
/// gets it.
async fn word_for_the_end(protocols: &[&str], tty: bool, code: i32) -> String {
    let server = StreamServer::open(&StreamConfig::default()).await.unwrap();
    let request = ProcessRequest { tty, stderr: !tty, ..ALL };
    let url = server.process("pod", "exec", request, move |session| pass_on(session, code)).unwrap();
    let running = connect::upgrade(Endpoint::from(&url), protocols).await.unwrap();
    let open = |kind: &str, fin| super::open(running.connection(), &[("streamtype", kind)], fin).unwrap();
    let (error, mut stdin) = (read_only(open("error", true)), open("stdin", false).1);
    let (stdout, stderr) = (read_only(open("stdout", true)), (!tty).then(|| read_only(open("stderr", true))));
    // Clients open a stream for sizes since v3. With older protocols the server must not wait for it.
    let has_sizes = protocols.iter().any(|protocol| protocol.starts_with("v3") || protocol.starts_with("v4"));
    let _sizes = (tty && has_sizes).then(|| open("resize", false));
    stdin.write(b"hello").await.unwrap();
    assert_eq!(read_all(stdout).await, b"hello", "{protocols:?}");
    if let Some(stderr) = stderr {
        assert_eq!(read_all(stderr).await, b"aside");
    }
    let word = String::from_utf8(read_all(error).await).unwrap();
    tokio::time::timeout(Duration::from_secs(10), running.finish()).await.expect("the end");
    word
}

#[tokio::test]
async fn each_protocol_of_processes_over_spdy_has_its_word_for_the_end() {
    for tty in [false, true] {
        for protocols in
            [&[][..], &["channel.k8s.io"], &["v2.channel.k8s.io"], &["v3.channel.k8s.io", "channel.k8s.io"]]
        {
            assert_eq!(word_for_the_end(protocols, tty, 0).await, "");
            let word = word_for_the_end(protocols, tty, 3).await;
            assert_eq!(word, "command terminated with exit code 3");
        }
        for (code, status) in [(0, "Success"), (3, "Failure")] {
            let word = word_for_the_end(&["v4.channel.k8s.io"], tty, code).await;
            let word: serde_json::Value = serde_json::from_str(&word).unwrap();
            assert_eq!(word["status"], status);
            assert!(code == 0 || word["details"]["causes"][0]["message"] == "3");
        }
    }
}

#[tokio::test]
async fn a_forwarded_stream_without_its_partner_or_sense_is_reset_and_the_session_goes_on() {
    let server = StreamServer::open(&StreamConfig::default()).await.unwrap();
    let (sender, _gone) = tokio::sync::oneshot::channel();
    let url = server.port_forward("pod", vec![], |session| serve(session, sender)).unwrap();
    let running = connect::upgrade(Endpoint::from(&url), PORT_FORWARD).await.unwrap();
    let open = |kind: &str, port: &str, id: &str| {
        let headers = [("streamtype", kind), ("port", port), ("requestid", id)];
        super::open(running.connection(), &headers, false).unwrap()
    };
    let (mut unknown, _writer) = open("other", "80", "a");
    assert_eq!(unknown.read().await, Err(StreamError::Reset));
    for port in ["0", "70000", "http", ""] {
        let (_error, (mut data, _writer)) = (open("error", port, port), open("data", port, port));
        assert_eq!(data.read().await, Err(StreamError::Reset), "{port}");
    }
    let (mut alone, _writer) = open("data", "80", "alone");
    // Waits until the stream has been opened. Then the test advances the clock by half a minute.
    tokio::time::sleep(Duration::from_millis(300)).await;
    tokio::time::pause();
    assert_eq!(alone.read().await, Err(StreamError::Reset));
    tokio::time::resume();
    let client = PortForwardClient { next: AtomicU64::new(0), running };
    assert_eq!(read_all(client.open(81).unwrap().error).await, b"refused");
}
