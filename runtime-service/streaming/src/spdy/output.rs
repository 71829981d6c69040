//! The writing half of a connection. Frames stay whole when a writer is dropped in the middle of one.

use std::io;

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

    /// Sends everything. Dropped before its end, the next call goes on.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        while self.pending.has_remaining() {
            // Takes what was sent out of `pending`.
            if self.io.write_buf(&mut self.pending).await? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        self.io.flush().await
    }

    pub(super) async fn shut_down(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.io.shutdown().await
    }
}
