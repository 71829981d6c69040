//! Clients that die in the opening of their session.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crisp_e2e::pod_server::{PodServer, Service};
use crisp_e2e::session::{Channel, Forward, ForwardProtocol, Process, Protocol, Streams};
use crisp_e2e::{Lab, Result, needs};
use k8s_cri::v1::ContainerConfig;

use super::held::Held;
use super::protocols::{PIPES, TERMINAL, attach_url, exec_url, forward_url};

/// At so many places in the bytes of an opening a client dies.
const PLACES: usize = 30;
const TOKEN: usize = 32;

/// A kind of session.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Exec(Protocol, Streams),
    Attach(Protocol),
    Forward(ForwardProtocol),
}

/// The objects that sessions are opened with.
struct Subjects {
    pod: String,
    id: String,
    /// A word in the command lines of the processes that sessions start.
    sleep: String,
}

impl Kind {
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for protocol in Protocol::USUAL {
            all.extend([Self::Exec(protocol, PIPES), Self::Exec(protocol, TERMINAL), Self::Attach(protocol)]);
        }
        all.extend(ForwardProtocol::ALL.map(Self::Forward));
        all
    }

    async fn url(self, lab: &mut Lab, subjects: &Subjects) -> Result<String> {
        match self {
            Self::Exec(_, streams) => {
                let line = format!("echo up; read x; sleep {}", subjects.sleep);
                exec_url(lab, &subjects.id, &line, streams).await
            }
            Self::Attach(_) => attach_url(lab, &subjects.id, TERMINAL).await,
            Self::Forward(_) => forward_url(lab, &subjects.pod, 8080).await,
        }
    }

    /// Opens a session and waits until it works.
    fn open(self, url: &str) -> Result<()> {
        match self {
            Self::Exec(protocol, streams) => open_process(url, protocol, streams, "up"),
            Self::Attach(protocol) => open_process(url, protocol, TERMINAL, "got input"),
            Self::Forward(protocol) => {
                let mut forward = Forward::open(url, protocol, 8080)?;
                forward.send(b"hello")?;
                forward.until(|forward| forward.data() == b"hello")
            }
        }
    }
}

fn open_process(url: &str, protocol: Protocol, streams: Streams, words: &str) -> Result<()> {
    let mut process = Process::open(url, protocol, streams)?;
    if streams.tty {
        process.resize(81, 25)?;
    }
    process.send(Channel::Stdin, b"input\n")?;
    process.until(|process| process.text(Channel::Stdout).contains(words))
}

/// Opens a session through a proxy; returns the bytes that the client has sent.
fn recorded(kind: Kind, url: &str) -> Result<Vec<u8>> {
    let authority = url.split('/').nth(2).ok_or("no address")?.to_owned();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let proxied = url.replace(&authority, &listener.local_addr()?.to_string());
    let all = Arc::new(Mutex::new(Vec::new()));
    let sent = all.clone();
    let proxy = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut client, mut server) = (listener.accept()?.0, TcpStream::connect(authority)?);
        let (mut back, mut answers) = (client.try_clone()?, server.try_clone()?);
        std::thread::spawn(move || std::io::copy(&mut answers, &mut back));
        let mut piece = [0; 4096];
        while let Ok(bytes @ 1..) = client.read(&mut piece) {
            sent.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&piece[..bytes]);
            server.write_all(&piece[..bytes])?;
        }
        server.shutdown(std::net::Shutdown::Both)
    });
    kind.open(&proxied)?;
    let _ = proxy.join().map_err(|_| "the proxy panicked")?;
    let all = all.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(all.clone())
}

/// Sends a part of the recorded bytes, with the token of a new URL, and closes the connection.
fn die(url: &str, recorded: &[u8], token: &str, length: usize) -> Result<()> {
    let authority = url.split('/').nth(2).ok_or("no address")?;
    let place = recorded.windows(TOKEN).position(|part| part == token.as_bytes()).ok_or("no token")?;
    let mut bytes = recorded.to_vec();
    bytes[place..place + TOKEN].copy_from_slice(&url.as_bytes()[url.len() - TOKEN..]);
    let mut socket = TcpStream::connect(authority)?;
    socket.write_all(&bytes[..length])?;
    if length.is_multiple_of(2) {
        // Time for the server to read all of that and to respond. Without this it often finds the end at once.
        socket.set_read_timeout(Some(Duration::from_millis(10)))?;
        let _ = socket.read(&mut [0; 4096]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_die_in_the_opening_of_any_session_leave_nothing() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("deaths").await?;
    let line = "while read x; do echo got $x; done";
    let config = ContainerConfig { stdin: true, tty: true, ..lab.shell(line) };
    let id = lab.client.launch(&pod, &config, &sandbox).await?;
    let server = PodServer::start(&lab.machine, &pod, 8080, Service::Echo)?;
    let subjects = Subjects { pod, id, sleep: format!("9{:05}.5", std::process::id() % 100_000) };
    for kind in Kind::all() {
        kind.open(&kind.url(&mut lab, &subjects).await?)?;
    }
    let before = Held::warmed_up(&mut lab, &subjects.pod, &subjects.id).await?;
    let begun = Instant::now();
    for kind in Kind::all() {
        let url = kind.url(&mut lab, &subjects).await?;
        let recorded = recorded(kind, &url).map_err(|error| format!("{kind:?}: {error}"))?;
        assert!(recorded.len() > 200, "{kind:?}: {} bytes", recorded.len());
        let token = &url[url.len() - TOKEN..];
        // The last places are in the frames behind the request.
        let head = recorded.windows(4).position(|part| part == b"\r\n\r\n").ok_or("no head")? + 4;
        let step = |length: usize| length.div_ceil(PLACES / 2).max(1);
        let places =
            (0..head).step_by(step(head)).chain((head..recorded.len()).step_by(step(recorded.len() - head)));
        for length in places.chain([head - 1, head, recorded.len()]) {
            die(&kind.url(&mut lab, &subjects).await?, &recorded, token, length)?;
        }
        kind.open(&kind.url(&mut lab, &subjects).await?)
            .map_err(|error| format!("{kind:?}, afterwards: {error}"))?;
    }
    println!("the deaths took {:?}", begun.elapsed());
    let ended = Instant::now();
    while server.open() > 0 {
        assert!(ended.elapsed() < Duration::from_secs(15), "{} connections are open", server.open());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let none = format!("! ps | grep -v grep | grep -q '{}'", subjects.sleep);
    lab.client.until(&subjects.id, &none).await?;
    before.again(&lab).await?;
    drop(server);
    lab.close().await
}
