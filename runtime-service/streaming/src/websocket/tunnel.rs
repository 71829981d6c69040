//! Carries the bytes of another protocol in the messages of a WebSocket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::Message;

use super::large::Meter;
use super::{Socket, socket};
use crate::slots::OwnedSlots;
use crate::transport::Duplex;

/// The longest message, in bytes.
const MAX_DATA: usize = 64 << 10;

/// A byte stream in which the boundaries of messages have no meaning.
pub(crate) struct Tunnel {
    socket: Socket,
    meter: Meter,
    /// The unread rest of the last message.
    rest: Bytes,
}

impl Tunnel {
    pub(crate) async fn new(io: Box<dyn Duplex>, read: BytesMut, large: OwnedSlots) -> Self {
        let (socket, meter) = socket(io, read, large).await;
        Self { socket, meter, rest: Bytes::new() }
    }

    fn sink(self: Pin<&mut Self>) -> Pin<&mut Socket> {
        Pin::new(&mut self.get_mut().socket)
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(context)) {
                Some(Ok(Message::Binary(bytes))) if bytes.is_empty() => self.meter.message_is_taken(),
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(Message::Ping(bytes) | Message::Pong(bytes))) => {
                    self.meter.control_is_taken(bytes.len());
                }
                Some(Ok(Message::Text(_) | Message::Frame(_))) => self.meter.message_is_taken(),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        let length = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest[..length]);
        self.rest.advance(length);
        if self.rest.is_empty() {
            self.meter.message_is_taken();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.as_mut().sink().poll_ready(context)).map_err(io::Error::other)?;
        let length = bytes.len().min(MAX_DATA);
        let message = Message::Binary(Bytes::copy_from_slice(&bytes[..length]));
        self.sink().start_send(message).map_err(io::Error::other)?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sink().poll_flush(context).map_err(io::Error::other)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sink().poll_close(context).map_err(io::Error::other)
    }
}
