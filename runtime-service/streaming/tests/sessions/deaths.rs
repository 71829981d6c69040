//! A client that vanishes at each byte of its session.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crisp_streaming::client::{PortForwardClient, ProcessClient};
use crisp_streaming::{
    Outcome, PortForwardSession, PortStream, ProcessRequest, ProcessSession, Size, StreamServer,
};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use super::process::{ALL, read_all};
use super::websocket::connect;

const TTY: ProcessRequest = ProcessRequest { stdin: true, stdout: true, stderr: false, tty: true };

/// A kind of session.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Spdy,
    WebSocket,
    Terminal,
    Forward,
    /// Through a WebSocket, with the port of its URL.
    FixedPort,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Spdy, Self::WebSocket, Self::Terminal, Self::Forward, Self::FixedPort];

    fn url(self, server: &StreamServer) -> String {
        match self {
            Self::Spdy | Self::WebSocket => server.process("pod", "exec", ALL, echo).unwrap(),
            Self::Terminal => server.process("pod", "attach", TTY, echo).unwrap(),
            Self::Forward => server.port_forward("pod", vec![], serve_ports).unwrap(),
            Self::FixedPort => server.port_forward("pod", vec![80], serve_ports).unwrap(),
        }
    }

    async fn session(self, url: &str) {
        match self {
            Self::Spdy => spdy_session(url).await,
            Self::WebSocket => websocket_session(url).await,
            Self::Terminal => terminal_session(url).await,
            Self::Forward => forward_session(url).await,
            Self::FixedPort => fixed_port_session(url).await,
        }
    }
}

/// Echoes stdin until it ends.
async fn echo(mut session: ProcessSession) {
    let (mut input, mut output) = (session.stdin.take().unwrap(), session.stdout.take().unwrap());
    while let Ok(Some(bytes)) = input.read().await {
        if output.write(&bytes).await.is_err() {
            break;
        }
    }
    let _ = output.close().await;
    session.finish(Outcome::Exited(0)).await;
}

fn parts(url: &str) -> (String, String) {
    let (authority, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    (authority.to_owned(), path.rsplit('/').next().unwrap().to_owned())
}

/// Starts a proxy for one connection to the URL's server, and records all that the client sends through it.
async fn recorder(url: &str) -> (String, Arc<Mutex<Vec<u8>>>) {
    let (authority, _) = parts(url);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxied = url.replace(&authority, &listener.local_addr().unwrap().to_string());
    let all = Arc::new(Mutex::new(Vec::new()));
    let sent = all.clone();
    tokio::spawn(async move {
        let (mut client, mut client_output) = listener.accept().await.unwrap().0.into_split();
        let (mut back, mut server) = TcpStream::connect(authority).await.unwrap().into_split();
        tokio::spawn(async move { tokio::io::copy(&mut back, &mut client_output).await });
        let mut buffer = vec![0; 4096];
        while let Ok(read @ 1..) = client.read(&mut buffer).await {
            sent.lock().unwrap().extend_from_slice(&buffer[..read]);
            server.write_all(&buffer[..read]).await.unwrap();
        }
    });
    (proxied, all)
}

async fn spdy_session(url: &str) {
    let mut client = ProcessClient::connect(url, ALL).await.unwrap();
    let (mut stdin, stdout) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
    stdin.write(&[7; 100]).await.unwrap();
    stdin.close().await.unwrap();
    assert_eq!(read_all(stdout).await, [7; 100]);
    assert_eq!(client.wait().await.unwrap(), 0);
    client.close().await;
}

async fn websocket_session(url: &str) {
    let mut socket = connect(url, "v5.channel.k8s.io").await;
    socket.send(Message::binary(vec![0; 101])).await.unwrap();
    socket.send(Message::binary(vec![255, 0])).await.unwrap();
    assert_eq!(super::websocket::read_all(&mut socket).await[1], [0; 100]);
}

/// Echoes on every port while the client is there.
async fn serve_ports(mut session: PortForwardSession) {
    let mut connections = JoinSet::new();
    while let Some(stream) = session.next().await {
        connections.spawn(echo_port(stream));
    }
    session.gone().await;
}

async fn echo_port(mut stream: PortStream) {
    while let Ok(Some(bytes)) = stream.reader.read().await {
        if stream.writer.write(&bytes).await.is_err() {
            return;
        }
    }
    let _ = stream.writer.close().await;
    let _ = stream.error.close().await;
}

async fn terminal_session(url: &str) {
    let mut client = ProcessClient::connect(url, TTY).await.unwrap();
    let (mut stdin, stdout) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
    client.resizes.as_mut().unwrap().send(Size { columns: 80, rows: 24 }).await.unwrap();
    stdin.write(b"typed").await.unwrap();
    stdin.close().await.unwrap();
    assert_eq!(read_all(stdout).await, b"typed");
    assert_eq!(client.wait().await.unwrap(), 0);
    client.close().await;
}

async fn forward_session(url: &str) {
    let client = PortForwardClient::connect(url).await.unwrap();
    let mut stream = client.open(80).unwrap();
    stream.writer.write(b"hello").await.unwrap();
    stream.writer.close().await.unwrap();
    assert_eq!(read_all(stream.reader).await, b"hello");
}

async fn fixed_port_session(url: &str) {
    let mut socket = connect(url, "v4.channel.k8s.io").await;
    socket.send(Message::binary(b"\0hello".to_vec())).await.unwrap();
    loop {
        let message = socket.next().await.unwrap().unwrap().into_data();
        if message.ends_with(b"hello") {
            return;
        }
    }
}

/// Sends each prefix of the recorded bytes, in a session of its own with a token of its own.
async fn die_at_each_byte(server: &StreamServer, kind: Kind, recorded: &[u8], token: &str) {
    let at = recorded.windows(token.len()).position(|part| part == token.as_bytes()).unwrap();
    for length in 0..recorded.len() {
        let (authority, token) = parts(&kind.url(server));
        let mut bytes = recorded.to_vec();
        bytes[at..at + token.len()].copy_from_slice(token.as_bytes());
        let mut socket = TcpStream::connect(authority).await.unwrap();
        socket.write_all(&bytes[..length]).await.unwrap();
        if length % 3 == 0 {
            // Time for the server to read all of that and to respond.
            tokio::time::sleep(Duration::from_millis(2)).await;
            let _ = socket.try_read(&mut [0; 4096]);
        }
    }
}

#[tokio::test]
async fn a_client_that_dies_at_any_byte_of_its_session_leaves_nothing() {
    // A URL that was not used is also freed soon.
    let config = crisp_streaming::StreamConfig {
        url_lifetime: Duration::from_secs(2),
        urls: crisp_streaming::Limit { each: 10_000, all: 10_000 },
        ..Default::default()
    };
    let server = StreamServer::open(&config).await.unwrap();
    let before = Handle::current().metrics().num_alive_tasks();
    for kind in Kind::ALL {
        let url = kind.url(&server);
        let (proxied, recorded) = recorder(&url).await;
        kind.session(&proxied).await;
        let recorded = recorded.lock().unwrap().clone();
        assert!(recorded.len() > 200, "{kind:?}: {}", recorded.len());
        die_at_each_byte(&server, kind, &recorded, &parts(&url).1).await;
        kind.session(&kind.url(&server)).await;
    }
    let begun = std::time::Instant::now();
    while Handle::current().metrics().num_alive_tasks() > before {
        let left = Handle::current().metrics().num_alive_tasks();
        assert!(begun.elapsed() < Duration::from_secs(60), "{before} tasks before, {left} after");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
