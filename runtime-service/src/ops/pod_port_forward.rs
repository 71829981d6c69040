//! PortForward: connections of a streaming client to ports on the loopback addresses of a pod.
//!
//! A connection that is refused or fails ends alone; the session continues.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use crisp_sandbox::Pod;
use crisp_sandbox::link::Failure;
use crisp_sandbox::network::Dialer;
use crisp_streaming::{PortForwardSession, PortStream, StreamReader, StreamWriter};
use rustix::io::Errno;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::process_streams::session_owner;
use crate::cause::Cause;
use crate::error::RuntimeError;
use crate::service_state::ServiceState;

/// Bytes of one read.
const READ: usize = 64 << 10;
/// Time limit for delivering data that a client sent before it closed its session.
const DELIVERY: Duration = Duration::from_secs(10);
/// Time for what a client still sends after the port has ended, where the client cannot say that it has ended too.
const AFTER_PORT_END: Duration = Duration::from_secs(1);

/// Returns the URL at which a client forwards ports.
///
/// # Errors
/// The pod is not ready, or too many sessions wait for their client.
pub fn pod_port_forward(
    service: &Arc<ServiceState>,
    pod: &Arc<Pod>,
    ports: Vec<u16>,
) -> Result<String, RuntimeError> {
    pod.require_ready()?;
    let owner = session_owner(&pod.id);
    // A URL that is never used keeps no pod alive.
    let pod = Arc::downgrade(pod);
    let serve = move |session: PortForwardSession| async move {
        match pod.upgrade() {
            Some(pod) => serve(pod, session).await,
            None => session.finish().await,
        }
    };
    Ok(service.streams.port_forward(&owner, ports, serve)?)
}

async fn serve(pod: Arc<Pod>, mut session: PortForwardSession) {
    let dialer = match dialer(&pod).await {
        Ok(dialer) => dialer,
        Err(error) => {
            tracing::warn!(pod = %pod.id, %error, "cannot forward ports");
            return session.finish().await;
        }
    };
    let mut connections = JoinSet::new();
    // Dropping the session closes it and its connections at once, as at the pod's end.
    let mut pod_ended = std::pin::pin!(pod.ended());
    loop {
        let stream = tokio::select! {
            stream = session.next() => stream,
            Some(_) = connections.join_next() => continue,
            () = &mut pod_ended => return,
        };
        let Some(stream) = stream else { break };
        connections.spawn(forward(dialer.clone(), stream));
    }
    // No new connections come; open ones continue while the client is there. Data that a client sent before
    // it closed its session properly is still delivered.
    let left = async {
        session.gone().await;
        if session.is_closed() {
            tokio::time::sleep(DELIVERY).await;
        }
    };
    tokio::select! {
        () = async { while connections.join_next().await.is_some() {} } => {}
        () = left => return,
        () = &mut pod_ended => return,
    }
    session.finish().await;
}

async fn dialer(pod: &Pod) -> Result<Dialer, Cause> {
    match pod.link()?.network().await {
        Ok(network) => Ok(Dialer::new(Some(network.netns))),
        // The pod has no own network: connections must not reach the node's own ports.
        Err(error) if matches!(error.failure(), Some(Failure::NoNetwork)) => Ok(Dialer::new(None)),
        Err(error) => Err(error.into()),
    }
}

async fn forward(dialer: Dialer, stream: PortStream) {
    let PortStream { port, reader, writer, mut error, is_reset_seen, .. } = stream;
    // Written to the error stream of kubectl, it would end the whole session.
    let broken = |reason: String| {
        (!is_reset_seen).then(|| format!("the connection to port {port} in the pod broke: {reason}"))
    };
    let breakage = reader.breakage();
    let connected = tokio::select! {
        connected = dialer.connect(port) => Ok(connected),
        reason = breakage.wait() => Err(reason),
    };
    let failure = match connected {
        Ok(Ok(connection)) => copy(connection, reader, writer, is_reset_seen)
            .await
            .err()
            .and_then(|reason| broken(reason.to_string())),
        Ok(Err(failure)) => {
            // What the client sends to it must not hold up its other ports.
            drop(reader);
            Some(failure.to_string())
        }
        Err(reason) => {
            drop(reader);
            broken(reason.to_string())
        }
    };
    if let Some(failure) = failure {
        let _ = error.write(failure.as_bytes()).await;
    }
    // Clients wait for its end.
    let _ = error.close().await;
}

/// Copies until both directions have ended, or the client has reset the stream or is gone, even while the
/// port neither reads nor sends. A client that cannot end its direction alone ends with the port.
///
/// # Errors
/// The connection broke, on either side.
async fn copy(
    connection: TcpStream,
    reader: StreamReader,
    writer: StreamWriter,
    client_ends: bool,
) -> io::Result<()> {
    let _ = connection.set_nodelay(true);
    let breakage = reader.breakage();
    let (from_pod, to_pod) = connection.into_split();
    let is_reset = AtomicBool::new(false);
    let (to_port, from_port) = (to_port(reader, to_pod, &is_reset), from_port(from_pod, writer, &is_reset));
    let ended = tokio::select! {
        ended = copy_both(to_port, from_port, client_ends) => ended,
        error = breakage.wait() => Err(io::Error::other(error)),
    };
    if let Err(error) = &ended {
        tracing::debug!(%error, "a forwarded connection broke");
    }
    ended
}

async fn copy_both(
    to_port: impl Future<Output = io::Result<()>>,
    from_port: impl Future<Output = io::Result<End>>,
    client_ends: bool,
) -> io::Result<()> {
    let (mut to_port, mut from_port) = (pin!(to_port), pin!(from_port));
    tokio::select! {
        ended = &mut to_port => {
            ended?;
            from_port.await.map(drop)
        }
        ended = &mut from_port => match ended? {
            End::Port if !client_ends => timeout(AFTER_PORT_END, to_port).await.unwrap_or(Ok(())),
            End::Port | End::Client => to_port.await,
        },
    }
}

/// The side that ended the copying of the port's output.
enum End {
    Port,
    /// It reads no more.
    Client,
}

/// The kernel reports a reset of the connection only once. When that is here, it is noted for [`from_port`], to which
/// the port's output then seems to end properly.
async fn to_port(
    mut reader: StreamReader,
    mut port: OwnedWriteHalf,
    is_reset: &AtomicBool,
) -> io::Result<()> {
    while let Some(bytes) = reader.read().await.map_err(io::Error::other)? {
        if let Err(error) = port.write_all(&bytes).await {
            // It reads no more, but its output still goes to the client.
            is_reset.store(error.kind() == io::ErrorKind::ConnectionReset, Ordering::Relaxed);
            return Ok(());
        }
    }
    // Reading shows whether it was closed meanwhile.
    let _ = port.shutdown().await;
    Ok(())
}

/// Dropping the writer, instead of closing it, shows the client that its data is not complete.
async fn from_port(
    mut port: OwnedReadHalf,
    mut writer: StreamWriter,
    is_reset: &AtomicBool,
) -> io::Result<End> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.clear();
        buffer.reserve(READ);
        if port.read_buf(&mut buffer).await? == 0 {
            if is_reset.load(Ordering::Relaxed) {
                return Err(Errno::CONNRESET.into());
            }
            return writer.close().await.map(|()| End::Port).map_err(io::Error::other);
        }
        if writer.write(&buffer).await.is_err() {
            // The data of the client still goes to the port, unless the stream failed.
            return Ok(End::Client);
        }
    }
}
