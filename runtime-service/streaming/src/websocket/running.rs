//! A WebSocket connection, its task and its end.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use futures_util::StreamExt as _;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::connection::{Channels, Connection};
use super::reader::Reader;
use super::socket;
use crate::slots::OwnedSlots;
use crate::stream::{Queue, StreamError, StreamReader, StreamWriter};
use crate::transport::{Duplex, Hangup};

/// A connection with its task. Dropping it ends both.
pub(crate) struct Running {
    connection: Arc<Connection>,
    queues: BTreeMap<u8, Arc<Queue>>,
    half_close: bool,
    _tasks: JoinSet<()>,
}

impl Running {
    pub(crate) async fn start(
        io: Box<dyn Duplex>,
        read: BytesMut,
        hangup: Hangup,
        channels: &Channels,
        large: OwnedSlots,
    ) -> Self {
        let (socket, meter) = socket(hangup.watch(io), read, large).await;
        let (output, input) = socket.split();
        let connection = Arc::new(Connection::new(output, channels.base64, hangup));
        let queues: BTreeMap<u8, Arc<Queue>> = channels.read.iter().map(|id| (*id, Arc::default())).collect();
        let mut tasks = JoinSet::new();
        let reader = Reader::new((input, meter), queues.clone(), connection.clone(), channels.clone());
        tasks.spawn(reader.read_all());
        Self { connection, queues, half_close: channels.half_close, _tasks: tasks }
    }

    /// Reads the client's data on a channel of [`Channels::read`].
    pub(crate) fn reader(&self, channel: u8) -> Option<StreamReader> {
        let queue = self.queues.get(&channel)?.clone();
        Some(StreamReader::new(self.connection.clone(), channel.into(), queue))
    }

    pub(crate) fn writer(&self, channel: u8) -> StreamWriter {
        StreamWriter::new(self.connection.clone(), channel.into())
    }

    /// Sends an empty message: clients take the first message as the sign that the session is ready.
    pub(crate) async fn greet(&self, channel: u8) {
        let _ = self.connection.send(channel.into(), &[]).await;
    }

    /// Returns when the client has closed the connection, or broken it.
    pub(crate) async fn gone(&self) {
        self.connection.gone().await;
    }

    /// Whether the client has sent a close message and had no other way to end its input.
    pub(crate) fn is_closed(&self) -> bool {
        !self.half_close && self.connection.closed.is_cancelled()
    }

    /// Sends a close message, and waits until the peer has closed too, or has received everything, however
    /// long that takes: if this side closed before the peer has read the end, the peer would miss it.
    pub(crate) async fn finish(self) {
        let is_sent = tokio::select! {
            is_sent = self.connection.close(CloseCode::Normal, "") => is_sent,
            () = self.gone() => return,
        };
        if is_sent {
            tokio::select! {
                () = self.connection.over.cancelled() => {}
                () = self.connection.hangup.overdue() => tracing::debug!("a client that has everything does not close"),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.connection.over.cancel();
        self.queues.values().for_each(|queue| queue.end(Err(StreamError::Lost)));
    }
}
