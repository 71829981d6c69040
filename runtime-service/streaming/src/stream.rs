//! The streams of a session, whatever the framing: what a client sends is read from a [`StreamReader`], what
//! it is to receive goes into a [`StreamWriter`].

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

/// Bytes of one stream that wait for their reader. A peer that sends more waits.
pub(crate) const WINDOW: usize = 128 << 10;

/// Why a stream ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    #[error("the client reset the stream")]
    Reset,
    #[error("the connection to the client is lost")]
    Lost,
}

pub(crate) type Sent<'a> = Pin<Box<dyn Future<Output = Result<(), StreamError>> + Send + 'a>>;

/// A way to carry streams over one connection.
pub(crate) trait Framing: Send + Sync + 'static {
    /// Sends bytes; waits while the peer takes none.
    fn write<'a>(&'a self, stream: u32, data: &'a [u8]) -> Sent<'a>;

    /// Says that this side sends no more on the stream: the peer may go on.
    fn close(&self, stream: u32) -> Sent<'_>;

    /// Ends the stream in both directions, without waiting.
    fn reset(&self, stream: u32);

    /// The reader has taken so many bytes: the peer may send as many more.
    fn taken(&self, stream: u32, bytes: usize);
}

/// Sends to the client. Dropped before [`close`](Self::close), it resets the stream.
pub struct StreamWriter {
    framing: Arc<dyn Framing>,
    stream: u32,
    closed: bool,
}

impl StreamWriter {
    pub(crate) fn new(framing: Arc<dyn Framing>, stream: u32) -> Self {
        Self { framing, stream, closed: false }
    }

    /// Sends all of `data`; waits while the client takes none.
    ///
    /// # Errors
    /// [`StreamError`]: nothing more can be sent.
    pub async fn write(&mut self, data: &[u8]) -> Result<(), StreamError> {
        self.framing.write(self.stream, data).await
    }

    /// Says that no more comes. The client may go on sending.
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn close(mut self) -> Result<(), StreamError> {
        let closed = self.framing.close(self.stream).await;
        self.closed = closed.is_ok();
        closed
    }

    /// Neither closes the stream nor resets it.
    pub(crate) fn leave(mut self) {
        self.closed = true;
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        if !self.closed {
            self.framing.reset(self.stream);
        }
    }
}

/// Receives from the client. What arrives after it was dropped is thrown away.
pub struct StreamReader {
    framing: Arc<dyn Framing>,
    stream: u32,
    queue: Arc<Queue>,
}

impl StreamReader {
    pub(crate) fn new(framing: Arc<dyn Framing>, stream: u32, queue: Arc<Queue>) -> Self {
        Self { framing, stream, queue }
    }

    /// The next bytes. None: the client sends no more. May be dropped without loss.
    ///
    /// # Errors
    /// [`StreamError`]. What arrived before is returned first.
    pub async fn read(&mut self) -> Result<Option<Bytes>, StreamError> {
        let bytes = self.queue.take().await?;
        if let Some(bytes) = &bytes {
            self.framing.taken(self.stream, bytes.len());
        }
        Ok(bytes)
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        self.queue.abandon();
    }
}

/// What has arrived on one stream and was not read yet.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    readable: Notify,
    writable: Notify,
}

#[derive(Default)]
struct State {
    bytes: BytesMut,
    end: Option<Result<(), StreamError>>,
    abandoned: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what arrived, once there is room. False: it is not read any more.
    pub(crate) async fn put(&self, bytes: &[u8]) -> bool {
        while !self.has_room() {
            self.writable.notified().await;
        }
        let mut state = self.lock();
        if state.abandoned || state.end.is_some() {
            return false;
        }
        state.bytes.extend_from_slice(bytes);
        drop(state);
        self.readable.notify_one();
        true
    }

    /// Whether bytes would be added, or thrown away, without waiting.
    pub(crate) fn has_room(&self) -> bool {
        let state = self.lock();
        state.abandoned || state.end.is_some() || state.bytes.len() < WINDOW
    }

    /// Nothing more arrives; the first end counts.
    pub(crate) fn end(&self, end: Result<(), StreamError>) {
        self.lock().end.get_or_insert(end);
        self.readable.notify_one();
        self.writable.notify_one();
    }

    async fn take(&self) -> Result<Option<Bytes>, StreamError> {
        loop {
            {
                let mut state = self.lock();
                if !state.bytes.is_empty() {
                    let bytes = std::mem::take(&mut state.bytes).freeze();
                    drop(state);
                    self.writable.notify_one();
                    return Ok(Some(bytes));
                }
                if let Some(end) = state.end {
                    return end.map(|()| None);
                }
            }
            self.readable.notified().await;
        }
    }

    fn abandon(&self) {
        let mut state = self.lock();
        state.abandoned = true;
        state.bytes = BytesMut::new();
        drop(state);
        self.writable.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn is_stuck(future: impl Future) -> bool {
        tokio::time::timeout(Duration::from_millis(50), future).await.is_err()
    }

    #[tokio::test]
    async fn a_full_queue_makes_its_writer_wait_until_it_is_read() {
        let queue = Queue::default();
        assert!(queue.put(&[1; WINDOW]).await);
        assert!(is_stuck(queue.put(b"more")).await);
        assert_eq!(queue.take().await.unwrap().unwrap().len(), WINDOW);
        assert!(queue.put(b"more").await);
        assert_eq!(queue.take().await.unwrap().unwrap(), "more");
        assert!(is_stuck(queue.take()).await);
    }

    #[tokio::test]
    async fn what_arrived_before_the_end_is_read_before_it() {
        let queue = Queue::default();
        queue.put(b"last").await;
        queue.end(Err(StreamError::Reset));
        queue.end(Ok(()));
        assert!(!queue.put(b"too late").await);
        assert_eq!(queue.take().await.unwrap().unwrap(), "last");
        assert_eq!(queue.take().await, Err(StreamError::Reset));
    }

    #[tokio::test]
    async fn a_queue_that_is_not_read_any_more_holds_nothing_and_stops_no_writer() {
        let queue = Queue::default();
        queue.put(&[1; WINDOW]).await;
        queue.abandon();
        assert!(!queue.put(&[1; WINDOW]).await);
        assert_eq!(queue.lock().bytes.capacity(), 0);
    }
}
