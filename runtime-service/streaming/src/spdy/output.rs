//! The writing half of a connection. Frames stay complete when a writer is dropped in the middle of one.

use std::io::{self, IoSlice};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncWriteExt, WriteHalf};

use crate::transport::Duplex;

pub(super) struct Output {
    io: WriteHalf<Box<dyn Duplex>>,
    /// The bytes of complete frames that are not sent yet.
    pending: BytesMut,
    /// The end has been sent; nothing is sent after it.
    is_shut: bool,
}

impl Output {
    pub(super) fn new(io: WriteHalf<Box<dyn Duplex>>) -> Self {
        Self { io, pending: BytesMut::new(), is_shut: false }
    }

    /// Whether a writer was dropped before it had sent its whole frame.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Sends the pending bytes and then `data`. When this future is dropped before its end, the next call
    /// continues.
    ///
    /// After [`shut_down`](Self::shut_down) nothing is sent, and that is not an error: responses to frames
    /// that the peer still sends, such as pings, must not end a connection whose last bytes the peer has not
    /// received yet.
    pub(super) async fn send(&mut self, data: &[u8]) -> io::Result<()> {
        if self.is_shut {
            self.pending.clear();
            return Ok(());
        }
        Frame { output: self, data }.write().await?;
        self.io.flush().await
    }

    pub(super) async fn shut_down(&mut self) -> io::Result<()> {
        self.send(&[]).await?;
        self.is_shut = true;
        self.io.shutdown().await
    }
}

/// The part of a frame that is sent from the caller's buffer. Dropping it keeps the bytes that were not sent.
struct Frame<'a> {
    output: &'a mut Output,
    data: &'a [u8],
}

impl Frame<'_> {
    async fn write(mut self) -> io::Result<()> {
        let Output { io, pending, .. } = &mut *self.output;
        while pending.has_remaining() || !self.data.is_empty() {
            let sent = io.write_vectored(&[IoSlice::new(pending), IoSlice::new(self.data)]).await?;
            if sent == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            let of_pending = sent.min(pending.len());
            pending.advance(of_pending);
            self.data = &self.data[sent - of_pending..];
        }
        Ok(())
    }
}

impl Drop for Frame<'_> {
    fn drop(&mut self) {
        self.output.pending.extend_from_slice(self.data);
    }
}
