//! A server of the test itself on a port of a pod: it accepts every connection at once, which the programs of busybox
//! do not.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};

use crate::{Machine, Result};

/// The bytes of a connection before it is reset.
const RESET_AFTER: u64 = 5000;

/// The answer to each connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Sends back all that comes, to its end.
    Echo,
    /// Sends back all that comes, but resets each connection whose number is a multiple of this one after some
    /// kilobytes.
    EchoWithResets(usize),
    /// Sends without an end and reads nothing.
    Endless,
}

/// Listens until it is dropped.
pub struct PodServer {
    accepting: JoinHandle<()>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    accepted: AtomicUsize,
    open: AtomicUsize,
}

impl PodServer {
    /// Listens on a port of the pod's loopback address.
    ///
    /// # Errors
    /// When the pod has no monitor, or the port is in use.
    pub fn start(machine: &Machine, pod: &str, port: u16, service: Service) -> Result<Self> {
        let monitors = machine.monitors(pod);
        let monitor = monitors.first().ok_or_else(|| format!("pod {pod} has no monitor"))?;
        let listener = tokio::net::TcpListener::from_std(listen(*monitor, port)?)?;
        let counts = Arc::new(Counts::default());
        let accepting = tokio::spawn(accept_all(listener, service, counts.clone()));
        Ok(Self { accepting, counts })
    }

    /// How many connections it has accepted.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.counts.accepted.load(Ordering::SeqCst)
    }

    /// How many of them have not ended.
    #[must_use]
    pub fn open(&self) -> usize {
        self.counts.open.load(Ordering::SeqCst)
    }
}

impl Drop for PodServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A listener in the network namespace of a monitor, which is that of its pod. A socket stays in the namespace in which
/// it was made, whichever thread uses it.
fn listen(monitor: i32, port: u16) -> Result<TcpListener> {
    let namespace = std::fs::File::open(format!("/proc/{monitor}/ns/net"))?;
    let listen = move || -> io::Result<TcpListener> {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    Ok(std::thread::spawn(listen).join().map_err(|_| "the thread of the namespace panicked")??)
}

async fn accept_all(listener: tokio::net::TcpListener, service: Service, counts: Arc<Counts>) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        let number = counts.accepted.fetch_add(1, Ordering::SeqCst) + 1;
        counts.open.fetch_add(1, Ordering::SeqCst);
        let counts = counts.clone();
        connections.spawn(async move {
            serve(socket, service, number).await;
            counts.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// Serves until the client has broken the connection, or ended it.
async fn serve(mut socket: TcpStream, service: Service, number: usize) {
    match service {
        Service::EchoWithResets(every) if number.is_multiple_of(every) => {
            let (input, mut output) = socket.split();
            let _ = tokio::io::copy(&mut input.take(RESET_AFTER), &mut output).await;
            // It is reset when it is dropped.
            let _ = socket.set_zero_linger();
        }
        Service::Echo | Service::EchoWithResets(_) => {
            let (mut input, mut output) = socket.split();
            let _ = tokio::io::copy(&mut input, &mut output).await;
        }
        Service::Endless => while socket.write_all(&[b'y'; 4096]).await.is_ok() {},
    }
}
