//! The tasks of one connection, and its end.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, ReadHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::connection::{Connection, Incoming, Role};
use super::frame::Decoder;
use crate::transport::{Duplex, Hangup};

/// Read at once.
const READ: usize = 32 << 10;
/// How long a peer may take to read the last bytes and close its side.
const LINGER: Duration = Duration::from_secs(10);

/// A connection with its tasks. Dropping it ends both.
pub(crate) struct Running {
    connection: Arc<Connection>,
    _tasks: JoinSet<()>,
}

impl Running {
    /// `read`: bytes of the peer that have been read already. At most `waiting` streams of the peer wait to
    /// be taken; it is told that further ones are refused, and all of them once the receiver is dropped.
    pub(crate) fn start(
        role: Role,
        io: Box<dyn Duplex>,
        read: BytesMut,
        hangup: Hangup,
        waiting: usize,
    ) -> (Self, mpsc::Receiver<Incoming>) {
        let (reading, writing) = tokio::io::split(io);
        let connection = Arc::new(Connection::new(role, writing, hangup));
        let (sender, incoming) = mpsc::channel(waiting);
        let mut tasks = JoinSet::new();
        let reader = connection.clone();
        tasks.spawn(async move {
            read_all(&reader, reading, read, sender).await;
            reader.lose();
        });
        let flusher = connection.clone();
        tasks.spawn(async move {
            loop {
                flusher.unsent.notified().await;
                if flusher.send_control().await.is_err() {
                    return;
                }
            }
        });
        (Self { connection, _tasks: tasks }, incoming)
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Returns when the peer has closed the connection, or broken it.
    pub(crate) async fn gone(&self) {
        self.connection.over.cancelled().await;
    }

    /// Sends what is left, and closes once the peer has done so too. Closing with bytes unread would make
    /// the kernel throw away what the peer has not received yet.
    pub(crate) async fn finish(self) {
        let finish = async {
            self.connection.shut_down().await;
            self.gone().await;
        };
        let _ = tokio::time::timeout(LINGER, finish).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.connection.lose();
    }
}

async fn read_all(
    connection: &Arc<Connection>,
    mut io: ReadHalf<Box<dyn Duplex>>,
    mut input: BytesMut,
    incoming: mpsc::Sender<Incoming>,
) {
    let mut decoder = Decoder::default();
    loop {
        loop {
            match decoder.next(&mut input) {
                Ok(Some(frame)) => {
                    if connection.receive(frame, &incoming).await.is_err() {
                        return;
                    }
                }
                Ok(None) => break,
                Err(error) => return tracing::debug!(%error, "a peer does not speak SPDY"),
            }
        }
        input.reserve(READ);
        match io.read_buf(&mut input).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
    }
}
