//! The tasks of one connection, and its end.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, ReadHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::connection::{Connection, Incoming, Rules};
use super::frame::Decoder;
use super::state::Role;
use crate::transport::{Duplex, Hangup};

/// Size of one read.
const READ: usize = 32 << 10;

/// A connection with its tasks. Dropping it ends both.
pub(crate) struct Running {
    connection: Arc<Connection>,
    _tasks: JoinSet<()>,
}

impl Running {
    /// `read`: bytes of the peer that have been read already. At most `waiting` streams of the peer wait to
    /// be taken; further ones are refused, and all of them are once the receiver is dropped.
    pub(crate) fn start(
        role: Role,
        rules: Rules,
        io: Box<dyn Duplex>,
        read: BytesMut,
        hangup: Hangup,
        waiting: usize,
    ) -> (Self, mpsc::Receiver<Incoming>) {
        let (reading, writing) = tokio::io::split(hangup.watch(io));
        let connection = Arc::new(Connection::new(role, rules, writing, hangup));
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

    /// Sends all pending bytes, and closes after the peer has closed or has received everything, however long
    /// that takes. If it closed before, the peer would miss the end, and a client without the end reports
    /// success.
    pub(crate) async fn finish(self) {
        self.connection.shut_down().await;
        tokio::select! {
            () = self.gone() => {}
            () = self.connection.hangup.overdue() => tracing::debug!("a client that has everything does not close"),
        }
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
        let read = tokio::select! {
            read = io.read_buf(&mut input) => read,
            () = connection.hangup.idle() => return tracing::debug!("a session was idle for too long"),
        };
        match read {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
    }
}
