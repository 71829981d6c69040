//! Limits how many clients at once may send messages of many megabytes, which few clients send.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::slots::{Limit, OwnedSlots, Slot};
use crate::transport::Duplex;

/// A message up to this length needs no permit.
const SMALL: usize = 2 << 20;
/// How many connections may send longer messages: each takes up to 32 MiB.
pub(crate) const LARGE: Limit = Limit { each: 2, all: 8 };
/// The length of a client's control frame without its payload.
const CONTROL: usize = 6;

/// Too many clients send large messages.
#[derive(Debug, thiserror::Error)]
#[error("too many clients send messages of many megabytes")]
pub(super) struct NoRoom;

impl NoRoom {
    pub(super) fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|error| error.is::<Self>())
    }
}

/// Counts the bytes of the unfinished message on a connection.
pub(super) struct Metered {
    io: Box<dyn Duplex>,
    since: Arc<AtomicUsize>,
    large: OwnedSlots,
    /// Kept until the connection ends, because tungstenite keeps the memory of its longest message for that
    /// long.
    permit: Option<Slot>,
}

/// Subtracts messages that have left the memory.
pub(super) struct Meter(Arc<AtomicUsize>);

impl Meter {
    /// Subtracts a whole message of data.
    pub(super) fn message_is_taken(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Subtracts a ping or a pong, which may come in the middle of a message of data.
    pub(super) fn control_is_taken(&self, payload: usize) {
        let less = |since: usize| Some(since.saturating_sub(CONTROL + payload));
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

impl Metered {
    pub(super) fn new(io: Box<dyn Duplex>, large: OwnedSlots) -> (Self, Meter) {
        let since = Arc::new(AtomicUsize::new(0));
        (Self { io, since: since.clone(), large, permit: None }, Meter(since))
    }

    fn check(&mut self) -> Result<(), NoRoom> {
        if self.permit.is_none() && self.since.load(Ordering::Relaxed) > SMALL {
            self.permit = Some(self.large.take().map_err(|_| NoRoom)?);
        }
        Ok(())
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check().map_err(io::Error::other)?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(context, buffer);
        self.since.fetch_add(buffer.filled().len() - before, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
