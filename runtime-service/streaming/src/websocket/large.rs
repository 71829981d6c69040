//! Messages of many megabytes, which few clients send: only so many at once are taken into memory.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::transport::Duplex;

/// A message up to this length needs no permission.
const SMALL: usize = 2 << 20;
/// Longer ones at once, in all sessions: each takes up to 32 MiB.
const MOST: usize = 8;

static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// There are too many large messages under way.
#[derive(Debug, thiserror::Error)]
#[error("too many messages of many megabytes are under way")]
pub(super) struct NoRoom;

impl NoRoom {
    pub(super) fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|error| error.is::<Self>())
    }
}

/// One of [`MOST`].
struct Permit;

impl Permit {
    fn take() -> Option<Self> {
        let one_more = |count| (count < MOST).then_some(count + 1);
        UNDER_WAY.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok().map(|_| Self)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts what is read of a connection for the message under way.
pub(super) struct Metered {
    io: Box<dyn Duplex>,
    since: Arc<AtomicUsize>,
    permit: Option<Permit>,
}

/// Says when a message has left the memory.
pub(super) struct Meter(Arc<AtomicUsize>);

impl Meter {
    pub(super) fn message_is_taken(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

impl Metered {
    pub(super) fn new(io: Box<dyn Duplex>) -> (Self, Meter) {
        let since = Arc::new(AtomicUsize::new(0));
        (Self { io, since: since.clone(), permit: None }, Meter(since))
    }

    fn check(&mut self) -> Result<(), NoRoom> {
        let since = self.since.load(Ordering::Relaxed);
        if since == 0 {
            self.permit = None;
        } else if since > SMALL && self.permit.is_none() {
            self.permit = Some(Permit::take().ok_or(NoRoom)?);
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
