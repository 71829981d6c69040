//! Passes the messages of a WebSocket client to the channels. Only one task reads: while it waits, all
//! channels of the session wait.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::SplitStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::connection::{Channels, Connection};
use super::large::{Meter, NoRoom};
use super::{MAX_MESSAGE, Socket};
use crate::stream::{Queue, Stalled, StreamError};

/// In v5, messages on this channel name a channel that the sender closes.
const CLOSE: u8 = 255;
/// How long a client may take to receive the reason why its messages cannot be read.
const REFUSAL: Duration = Duration::from_secs(5);
/// Maximum number of bytes that a client may have sent before it closed, while no reader takes them: no
/// kernel buffers more.
const MAX_AHEAD: usize = 64 << 20;
/// The memory that a message takes in addition to its bytes.
const OVERHEAD: usize = 64;

pub(super) struct Reader {
    input: Input,
    queues: BTreeMap<u8, Arc<Queue>>,
    connection: Arc<Connection>,
    channels: Channels,
}

struct Input {
    socket: SplitStream<Socket>,
    meter: Meter,
    /// The last message was data; it counts as taken when the next one is requested.
    holds_message: bool,
    /// Messages that were read early to find out how the session ends.
    ahead: VecDeque<Message>,
    is_over: bool,
}

impl Reader {
    pub(super) fn new(
        (socket, meter): (SplitStream<Socket>, Meter),
        queues: BTreeMap<u8, Arc<Queue>>,
        connection: Arc<Connection>,
        channels: Channels,
    ) -> Self {
        let ahead = VecDeque::new();
        let input = Input { socket, meter, holds_message: false, ahead, is_over: false };
        Self { input, queues, connection, channels }
    }

    pub(super) async fn read_all(mut self) {
        let end = self.read_to_end().await;
        // A client that can end its input alone has left when it closes without that.
        let of_input = if self.channels.half_close { end.and(Err(StreamError::Lost)) } else { end };
        self.queues.values().for_each(|queue| queue.end(of_input));
        if end.is_ok() {
            self.connection.closed.cancel();
            // The response to the client's close is sent with the next read.
            let _ = self.input.socket.next().await;
        }
        self.connection.over.cancel();
    }

    /// Returns Ok when the client closes properly.
    async fn read_to_end(&mut self) -> Result<(), StreamError> {
        let connection = self.connection.clone();
        loop {
            let message = tokio::select! {
                message = self.input.next() => message,
                () = connection.hangup.idle() => return Err(StreamError::Lost),
            };
            match message {
                Some(Ok(Message::Close(_))) => return Ok(()),
                Some(Ok(message)) => self.receive(message).await?,
                Some(Err(error)) => return Err(refuse(&connection, &error).await),
                None => return Err(StreamError::Lost),
            }
        }
    }

    async fn receive(&mut self, message: Message) -> Result<(), StreamError> {
        let Some((channel, bytes)) = self.channels.decode(message) else { return Ok(()) };
        if self.channels.half_close && channel == CLOSE {
            if let Some(queue) = bytes.first().and_then(|channel| self.queues.get(channel)) {
                queue.end(Ok(()));
            }
            return Ok(());
        }
        let Some(queue) = self.queues.get(&channel).cloned() else { return Ok(()) };
        if self.put(&queue, &bytes).await?.is_err() {
            tracing::info!(
                channel,
                "a connection that takes nothing held up the others of its session: it is reset"
            );
            queue.end(Err(StreamError::Stalled));
        }
        Ok(())
    }

    /// Waits for room. If the client closes its connection during the wait it counts as lost, unless it has
    /// sent a close message: then all its data before that is read.
    async fn put(&mut self, queue: &Queue, bytes: &Bytes) -> Result<Result<bool, Stalled>, StreamError> {
        let mut put = std::pin::pin!(queue.put(bytes, self.channels.patience));
        loop {
            tokio::select! {
                biased;
                done = &mut put => return Ok(done),
                () = self.connection.hangup.closed(), if !self.input.is_over => {
                    self.input.read_ahead().await?;
                    self.connection.closed.cancel();
                }
                () = self.connection.hangup.idle() => return Err(StreamError::Lost),
                () = self.connection.over.cancelled() => return Err(StreamError::Lost),
            }
        }
    }
}

impl Input {
    async fn next(&mut self) -> Option<Result<Message, Error>> {
        if let Some(message) = self.ahead.pop_front() {
            return Some(Ok(message));
        }
        if std::mem::take(&mut self.holds_message) {
            self.meter.message_is_taken();
        }
        let message = self.socket.next().await?;
        match &message {
            Ok(Message::Binary(_) | Message::Text(_)) => self.holds_message = true,
            Ok(Message::Ping(bytes) | Message::Pong(bytes)) => self.meter.control_is_taken(bytes.len()),
            Ok(Message::Close(_) | Message::Frame(_)) | Err(_) => {}
        }
        Some(message)
    }

    /// Reads all messages up to the end of the connection, which the peer has closed.
    ///
    /// # Errors
    /// When the client has not sent a close message.
    async fn read_ahead(&mut self) -> Result<(), StreamError> {
        let mut bytes = 0;
        loop {
            // The kernel already has the peer's last bytes, so no permit is needed.
            self.meter.message_is_taken();
            let Some(Ok(message)) = self.socket.next().await else { break };
            bytes += message.len() + OVERHEAD;
            let is_end = message.is_close();
            self.ahead.push_back(message);
            if is_end {
                self.is_over = true;
                return Ok(());
            }
            if bytes > MAX_AHEAD {
                break;
            }
        }
        Err(StreamError::Lost)
    }
}

/// Sends the reason why the client's messages cannot be read.
async fn refuse(connection: &Connection, error: &Error) -> StreamError {
    let code = match error {
        Error::Capacity(_) => Some((CloseCode::Size, "a message is longer than 32 MiB")),
        Error::Io(error) if NoRoom::is(error) => {
            Some((CloseCode::Again, "too many clients send messages of many megabytes: try again"))
        }
        _ => None,
    };
    tracing::debug!(%error, max = MAX_MESSAGE, "a WebSocket cannot be read");
    if let Some((code, reason)) = code {
        tokio::select! {
            _ = connection.close(code, reason) => {}
            () = connection.hangup.wait() => {}
            // A client that only sends does not read it.
            () = tokio::time::sleep(REFUSAL) => {}
        }
    }
    StreamError::Lost
}
