//! The writing half of a connection. Frames stay whole when a writer is dropped in the middle of one.

use std::io::{self, IoSlice};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncWriteExt, WriteHalf};

use crate::transport::Duplex;

pub(super) struct Output {
    io: WriteHalf<Box<dyn Duplex>>,
    /// Bytes of whole frames that are not sent yet.
    pending: BytesMut,
}

impl Output {
    pub(super) fn new(io: WriteHalf<Box<dyn Duplex>>) -> Self {
        Self { io, pending: BytesMut::new() }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Sends everything, with `data` as its end. Dropped before its end, the next call goes on.
    pub(super) async fn send(&mut self, data: &[u8]) -> io::Result<()> {
        Frame { output: self, data }.write().await?;
        self.io.flush().await
    }

    pub(super) async fn shut_down(&mut self) -> io::Result<()> {
        self.send(&[]).await?;
        self.io.shutdown().await
    }
}

/// The end of a frame, which is sent from where it is. What is left of it when it is dropped is kept.
struct Frame<'a> {
    output: &'a mut Output,
    data: &'a [u8],
}

impl Frame<'_> {
    async fn write(mut self) -> io::Result<()> {
        let Output { io, pending } = &mut *self.output;
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
