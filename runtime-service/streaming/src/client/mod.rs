//! A client of one-time URLs, for the command line and for tests. It speaks SPDY, in which either side can
//! close its half of a stream.

mod connect;
#[cfg(test)]
mod tests;
mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::process::{ProcessRequest, Size};
use crate::spdy::{Connection, Headers, Running};
use crate::stream::{StreamError, StreamReader, StreamWriter};

pub use connect::{ClientError, Endpoint};

/// The sub-protocols for processes, the best first.
const PROCESS: &[&str] = &["v4.channel.k8s.io"];
const PORT_FORWARD: &[&str] = &["portforward.k8s.io"];
/// How many bytes of a status are read.
const MAX_STATUS: usize = 64 << 10;

/// The client's side of a session with a process.
pub struct ProcessClient {
    pub stdin: Option<StreamWriter>,
    pub stdout: Option<StreamReader>,
    pub stderr: Option<StreamReader>,
    pub resizes: Option<ResizeWriter>,
    error: StreamReader,
    running: Running,
}

/// Sends the size of the client's terminal.
pub struct ResizeWriter(StreamWriter);

/// The client's side of a port-forward session.
pub struct PortForwardClient {
    next: AtomicU64,
    running: Running,
}

/// The client's side of one forwarded connection.
pub struct ForwardedPort {
    pub reader: StreamReader,
    pub writer: StreamWriter,
    /// Holds a text when the connection failed.
    pub error: StreamReader,
}

fn open(
    connection: &Arc<Connection>,
    headers: &[(&str, &str)],
    fin: bool,
) -> Result<(StreamReader, StreamWriter), ClientError> {
    connection.open(&Headers::new(headers), fin).map_err(ClientError::Stream)
}

/// Returns the reader. The client's half of the stream was closed when the stream was opened.
fn read_only((reader, writer): (StreamReader, StreamWriter)) -> StreamReader {
    writer.leave();
    reader
}

impl ProcessClient {
    /// Connects to the URL.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn connect(
        endpoint: impl Into<Endpoint>,
        request: ProcessRequest,
    ) -> Result<Self, ClientError> {
        let running = connect::upgrade(endpoint.into(), PROCESS).await?;
        let connection = running.connection().clone();
        let open = |kind: &str, fin: bool| open(&connection, &[("streamtype", kind)], fin);
        let error = read_only(open("error", true)?);
        let input = |wanted: bool, kind: &str| -> Result<_, ClientError> {
            if wanted { Ok(Some(open(kind, false)?.1)) } else { Ok(None) }
        };
        let output = |wanted: bool, kind: &str| -> Result<_, ClientError> {
            if wanted { Ok(Some(read_only(open(kind, true)?))) } else { Ok(None) }
        };
        Ok(Self {
            stdin: input(request.stdin, "stdin")?,
            stdout: output(request.stdout, "stdout")?,
            stderr: output(request.stderr && !request.tty, "stderr")?,
            resizes: input(request.tty, "resize")?.map(ResizeWriter),
            error,
            running,
        })
    }

    /// Waits without a limit for the end, and returns the process's exit code.
    ///
    /// # Errors
    /// [`ClientError::Stream`] when the connection is lost, [`ClientError::Server`] with the server's reason
    /// why there is no exit code.
    pub async fn wait(&mut self) -> Result<i32, ClientError> {
        let mut text = Vec::new();
        let end = loop {
            match self.error.read().await {
                Ok(Some(bytes)) => {
                    let room = MAX_STATUS - text.len();
                    text.extend_from_slice(&bytes[..bytes.len().min(room)]);
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        // The library of Kubernetes, in containerd and CRI-O, resets the streams after it has sent a status.
        match (serde_json::from_slice(&text), end) {
            (Ok(status), _) => exit_code(&status),
            (Err(_), Ok(())) => Err(ClientError::Server(String::from_utf8_lossy(&text).into_owned())),
            (Err(_), Err(error)) => Err(ClientError::Stream(error)),
        }
    }

    /// Closes the session.
    pub async fn close(self) {
        self.running.finish().await;
    }
}

fn exit_code(status: &serde_json::Value) -> Result<i32, ClientError> {
    if status["status"] == "Success" {
        return Ok(0);
    }
    let causes = status["details"]["causes"].as_array().into_iter().flatten();
    let code =
        causes.filter(|cause| cause["reason"] == "ExitCode").find_map(|cause| cause["message"].as_str());
    match code.and_then(|code| code.parse().ok()) {
        Some(code) => Ok(code),
        None => {
            Err(ClientError::Server(status["message"].as_str().unwrap_or("it gives no reason").to_owned()))
        }
    }
}

impl ResizeWriter {
    /// # Errors
    /// [`StreamError`].
    pub async fn send(&mut self, size: Size) -> Result<(), StreamError> {
        let text = format!("{{\"Width\":{},\"Height\":{}}}\n", size.columns, size.rows);
        self.0.write(text.as_bytes()).await
    }
}

impl PortForwardClient {
    /// Connects to the URL.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn connect(endpoint: impl Into<Endpoint>) -> Result<Self, ClientError> {
        let running = connect::upgrade(endpoint.into(), PORT_FORWARD).await?;
        Ok(Self { next: AtomicU64::new(0), running })
    }

    /// Opens a connection to a port of the pod.
    ///
    /// # Errors
    /// [`ClientError::Stream`] when the session is over.
    pub fn open(&self, port: u16) -> Result<ForwardedPort, ClientError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let port = port.to_string();
        let headers = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", id.as_str())];
        let connection = self.running.connection();
        let error = read_only(open(connection, &headers("error"), true)?);
        let (reader, writer) = open(connection, &headers("data"), false)?;
        Ok(ForwardedPort { reader, writer, error })
    }

    /// Returns when the session is over.
    pub async fn gone(&self) {
        self.running.gone().await;
    }
}
