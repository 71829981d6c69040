//! A WebSocket whose messages belong to several streams.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use crisp_operation::Cancel;
use futures_util::SinkExt as _;
use futures_util::stream::SplitSink;
use tokio::sync::Mutex;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::Socket;
use crate::stream::{Framing, Sent, StreamError};
use crate::transport::Hangup;

/// The longest message, in bytes.
const MAX_DATA: usize = 64 << 10;

/// The channels of a connection, and the encoding of their messages.
#[derive(Debug, Clone)]
pub(crate) struct Channels {
    /// The channels that the client sends on.
    pub(crate) read: Vec<u8>,
    /// Whether messages are text: the channel as a digit, then base64.
    pub(crate) base64: bool,
    /// Whether a client can close a single channel.
    pub(crate) half_close: bool,
    /// How long a channel whose reader takes nothing may delay the others before it is reset. None: without
    /// limit. A WebSocket has no windows.
    pub(crate) patience: Option<Duration>,
}

pub(super) struct Connection {
    output: Mutex<SplitSink<Socket, Message>>,
    base64: bool,
    pub(super) hangup: Hangup,
    /// Cancelled when the client has closed the session properly.
    pub(super) closed: Cancel,
    pub(super) over: Cancel,
}

impl Channels {
    /// Splits a message into channel and data. Returns None when it is not a message of a channel.
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
    pub(super) fn new(output: SplitSink<Socket, Message>, base64: bool, hangup: Hangup) -> Self {
        let (closed, over) = (Cancel::new(), Cancel::new());
        Self { output: Mutex::new(output), base64, hangup, closed, over }
    }

    /// Returns when the client has closed the connection, or broken it.
    pub(super) async fn gone(&self) {
        tokio::select! {
            () = self.closed.cancelled() => {}
            () = self.over.cancelled() => {}
        }
    }

    pub(super) async fn close(&self, code: CloseCode, reason: &'static str) -> bool {
        let end = CloseFrame { code, reason: reason.into() };
        self.output.lock().await.send(Message::Close(Some(end))).await.is_ok()
    }

    pub(super) async fn send(&self, stream: u32, data: &[u8]) -> Result<(), StreamError> {
        let channel = u8::try_from(stream).map_err(|_| StreamError::Lost)?;
        let message = encode(self.base64, channel, data);
        let send = async { self.output.lock().await.send(message).await };
        tokio::select! {
            sent = send => sent.map_err(|_| StreamError::Lost),
            () = self.gone() => Err(StreamError::Lost),
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

    /// Clients know no end of a single channel: the end of the connection is the end of all. Other servers of
    /// port-forward close the connection at the first end.
    fn close(&self, _stream: u32) -> Sent<'_> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// A port-forward session sends a reason on the channel for errors instead.
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
