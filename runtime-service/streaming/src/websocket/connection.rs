//! A WebSocket whose messages are those of several streams.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use crisp_operation::Cancel;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::{Socket, socket};
use crate::stream::{Framing, Queue, Sent, StreamError, StreamReader, StreamWriter};
use crate::transport::{Duplex, Hangup};

/// Bytes of one message.
const MAX_DATA: usize = 64 << 10;
/// In v5, the channel whose messages name a channel that its sender closes.
const CLOSE: u8 = 255;

/// Which channels there are, and how their messages are written.
#[derive(Debug, Clone)]
pub(crate) struct Channels {
    /// Those that the client sends on.
    pub(crate) read: Vec<u8>,
    /// Messages are text: the channel as a digit, then base64.
    pub(crate) base64: bool,
    /// A client can close a single channel.
    pub(crate) half_close: bool,
    /// How long a channel whose reader takes nothing may hold up the others; then it is reset. None: as long
    /// as it wants. A WebSocket has no windows.
    pub(crate) patience: Option<Duration>,
}

struct Connection {
    output: Mutex<SplitSink<Socket, Message>>,
    base64: bool,
    over: Cancel,
}

/// A connection with its task. Dropping it ends both.
pub(crate) struct Running {
    connection: Arc<Connection>,
    queues: BTreeMap<u8, Arc<Queue>>,
    _tasks: JoinSet<()>,
}

impl Running {
    pub(crate) async fn start(
        io: Box<dyn Duplex>,
        read: BytesMut,
        hangup: Hangup,
        channels: &Channels,
    ) -> Self {
        let (output, input) = socket(Role::Server, hangup.watch(io), read).await.split();
        let over = Cancel::new();
        let connection =
            Arc::new(Connection { output: Mutex::new(output), base64: channels.base64, over: over.clone() });
        let queues: BTreeMap<u8, Arc<Queue>> = channels.read.iter().map(|id| (*id, Arc::default())).collect();
        let mut tasks = JoinSet::new();
        let reader = Reader { input, queues: queues.clone(), hangup, channels: channels.clone(), over };
        tasks.spawn(reader.read_all());
        Self { connection, queues, _tasks: tasks }
    }

    /// What the client sends on a channel of [`Channels::read`].
    pub(crate) fn reader(&self, channel: u8) -> Option<StreamReader> {
        let queue = self.queues.get(&channel)?.clone();
        Some(StreamReader::new(self.connection.clone(), channel.into(), queue))
    }

    pub(crate) fn writer(&self, channel: u8) -> StreamWriter {
        StreamWriter::new(self.connection.clone(), channel.into())
    }

    /// Sends an empty message: clients take the first one as the sign that all is ready.
    pub(crate) async fn greet(&self, channel: u8) {
        let _ = self.connection.send(channel.into(), &[]).await;
    }

    pub(crate) async fn gone(&self) {
        self.connection.over.cancelled().await;
    }

    /// Closes once the peer has done so too, however long it takes: closing before it has read the end would
    /// make it miss that.
    pub(crate) async fn finish(self) {
        let end = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let close =
            async { self.connection.output.lock().await.send(Message::Close(Some(end))).await.is_ok() };
        let is_sent = tokio::select! {
            is_sent = close => is_sent,
            () = self.gone() => return,
        };
        if is_sent {
            self.gone().await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.connection.over.cancel();
        self.queues.values().for_each(|queue| queue.end(Err(StreamError::Lost)));
    }
}

struct Reader {
    input: SplitStream<Socket>,
    queues: BTreeMap<u8, Arc<Queue>>,
    hangup: Hangup,
    channels: Channels,
    over: Cancel,
}

impl Reader {
    async fn read_all(mut self) {
        loop {
            let message = tokio::select! {
                message = self.input.next() => message,
                () = self.hangup.idle() => break,
            };
            let Some(Ok(message)) = message else { break };
            if self.receive(message).await.is_err() {
                break;
            }
        }
        self.over.cancel();
        self.queues.values().for_each(|queue| queue.end(Err(StreamError::Lost)));
    }

    async fn receive(&self, message: Message) -> Result<(), StreamError> {
        let Some((channel, bytes)) = self.channels.decode(message) else { return Ok(()) };
        if self.channels.half_close && channel == CLOSE {
            if let Some(queue) = bytes.first().and_then(|channel| self.queues.get(channel)) {
                queue.end(Ok(()));
            }
            return Ok(());
        }
        let Some(queue) = self.queues.get(&channel) else { return Ok(()) };
        tokio::select! {
            biased;
            put = queue.put(&bytes, self.channels.patience) => {
                if put.is_err() {
                    tracing::info!(channel, "a connection that takes nothing held up the others of its session: it is reset");
                    queue.end(Err(StreamError::Reset));
                }
                Ok(())
            }
            () = self.hangup.wait() => Err(StreamError::Lost),
            () = self.over.cancelled() => Err(StreamError::Lost),
        }
    }
}

impl Channels {
    /// None: not a message of a channel.
    pub(crate) fn decode(&self, message: Message) -> Option<(u8, Bytes)> {
        let mut bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => return None,
        };
        let channel = *bytes.first()?;
        let data = bytes.split_off(1);
        if !self.base64 {
            return Some((channel, data));
        }
        let channel = char::from(channel).to_digit(10)?;
        Some((u8::try_from(channel).ok()?, STANDARD.decode(data).ok()?.into()))
    }
}

fn encode(base64: bool, channel: u8, data: &[u8]) -> Message {
    if base64 {
        return Message::text(format!("{channel}{}", STANDARD.encode(data)));
    }
    let mut bytes = BytesMut::with_capacity(1 + data.len());
    bytes.extend_from_slice(&[channel]);
    bytes.extend_from_slice(data);
    Message::Binary(bytes.freeze())
}

impl Connection {
    async fn send(&self, stream: u32, data: &[u8]) -> Result<(), StreamError> {
        let channel = u8::try_from(stream).map_err(|_| StreamError::Lost)?;
        let message = encode(self.base64, channel, data);
        let send = async { self.output.lock().await.send(message).await };
        tokio::select! {
            sent = send => sent.map_err(|_| StreamError::Lost),
            () = self.over.cancelled() => Err(StreamError::Lost),
        }
    }
}

impl Framing for Connection {
    fn write<'a>(&'a self, stream: u32, data: &'a [u8]) -> Sent<'a> {
        Box::pin(async move {
            for piece in data.chunks(MAX_DATA) {
                self.send(stream, piece).await?;
            }
            Ok(())
        })
    }

    /// Clients know no end of a single channel: they take the end of the connection for it.
    fn close(&self, _stream: u32) -> Sent<'_> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn reset(&self, _stream: u32) {}

    fn taken(&self, _stream: u32, _bytes: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_written_in_both_forms() {
        for base64 in [false, true] {
            let channels = Channels { read: vec![0], base64, half_close: false, patience: None };
            let message = encode(base64, 1, b"\xffbytes");
            assert_eq!(channels.decode(message), Some((1, Bytes::from_static(b"\xffbytes"))));
            assert_eq!(channels.decode(Message::Binary(Bytes::new())), None);
        }
        let channels = Channels { read: vec![0], base64: true, half_close: false, patience: None };
        assert_eq!(channels.decode(Message::text("0%%%")), None);
        assert_eq!(channels.decode(Message::text("x00")), None);
    }
}
