//! The streams of a session, with the same interface for each framing: data from the client is read from a
//! [`StreamReader`], and data for the client is written to a [`StreamWriter`].

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

/// How many bytes of one stream may wait for their reader. A peer that sends more has to wait.
pub(crate) const WINDOW: usize = 128 << 10;
/// How many bytes a reader takes at once: a slow reader makes progress in such steps.
const MAX_TAKE: usize = 32 << 10;

/// The reason why a stream broke before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    #[error("the other side has reset the stream")]
    Reset,
    #[error("the connection is lost")]
    Lost,
    #[error("too many streams are open")]
    TooMany,
    #[error("it took no data for too long, which held up the others of its session")]
    Stalled,
}

pub(crate) type Sent<'a> = Pin<Box<dyn Future<Output = Result<(), StreamError>> + Send + 'a>>;

/// A way to carry streams over one connection.
pub(crate) trait Framing: Send + Sync + 'static {
    /// Sends bytes; waits while the peer accepts none.
    fn write<'a>(&'a self, stream: u32, data: &'a [u8]) -> Sent<'a>;

    /// Sends the end of this side's data on the stream; the peer may continue to send.
    fn close(&self, stream: u32) -> Sent<'_>;

    /// Ends the stream in both directions, without waiting.
    fn reset(&self, stream: u32);

    /// Notes that the reader has taken this many bytes, so that the peer may send as many more.
    fn taken(&self, stream: u32, bytes: usize);
}

/// Sends to the client. Dropping it before [`close`](Self::close) resets the stream.
pub struct StreamWriter {
    framing: Arc<dyn Framing>,
    stream: u32,
    closed: bool,
}

impl StreamWriter {
    pub(crate) fn new(framing: Arc<dyn Framing>, stream: u32) -> Self {
        Self { framing, stream, closed: false }
    }

    /// Sends all of `data`; waits while the client accepts none.
    ///
    /// # Errors
    /// [`StreamError`]: nothing more can be sent.
    pub async fn write(&mut self, data: &[u8]) -> Result<(), StreamError> {
        self.framing.write(self.stream, data).await
    }

    /// Sends the end of the data. The client may continue to send.
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn close(mut self) -> Result<(), StreamError> {
        let closed = self.framing.close(self.stream).await;
        self.closed = closed.is_ok();
        closed
    }

    /// Drops the writer without closing or resetting the stream.
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

/// Receives from the client. Data that arrives after it was dropped is discarded.
pub struct StreamReader {
    framing: Arc<dyn Framing>,
    stream: u32,
    queue: Arc<Queue>,
}

impl StreamReader {
    pub(crate) fn new(framing: Arc<dyn Framing>, stream: u32, queue: Arc<Queue>) -> Self {
        Self { framing, stream, queue }
    }

    /// Returns the next bytes. None when the client has ended its data. Dropping this future loses no bytes.
    ///
    /// # Errors
    /// [`StreamError`]. Bytes that arrived before the error are returned first.
    pub async fn read(&mut self) -> Result<Option<Bytes>, StreamError> {
        let bytes = self.queue.take().await?;
        if let Some(bytes) = &bytes {
            self.framing.taken(self.stream, bytes.len());
        }
        Ok(bytes)
    }
}

impl StreamReader {
    /// Returns a handle that notices when the stream breaks, also while nothing is read from it.
    #[must_use]
    pub fn breakage(&self) -> Breakage {
        Breakage(self.queue.clone())
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        let unread = self.queue.abandon();
        if unread > 0 {
            // Discarded bytes count as read.
            self.framing.taken(self.stream, unread);
        }
    }
}

/// Notices when a stream breaks.
pub struct Breakage(Arc<Queue>);

impl Breakage {
    /// Returns when the stream was reset, or the connection to the client is lost.
    pub async fn wait(&self) -> StreamError {
        self.0.broken().await
    }
}

/// The unread data of one stream.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    readable: Notify,
    writable: Notify,
    broke: Notify,
}

#[derive(Default)]
struct State {
    bytes: BytesMut,
    end: Option<Result<(), StreamError>>,
    /// Set also when the stream breaks after the end of the client's data.
    broken: Option<StreamError>,
    abandoned: bool,
}

/// The result of adding received bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    Queued,
    /// The reader was dropped, so the bytes are discarded.
    Discarded,
    /// There is no room for the bytes.
    Full,
}

/// The reader took no bytes for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stalled;

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds received bytes, all or none of them. An empty queue accepts any number.
    pub(crate) fn try_put(&self, bytes: &[u8]) -> Put {
        let mut state = self.lock();
        if state.abandoned || state.end.is_some() {
            return Put::Discarded;
        }
        if !state.bytes.is_empty() && state.bytes.len() + bytes.len() > WINDOW {
            return Put::Full;
        }
        state.bytes.extend_from_slice(bytes);
        drop(state);
        self.readable.notify_one();
        Put::Queued
    }

    /// Adds received bytes once there is room. Returns false when the reader was dropped.
    ///
    /// # Errors
    /// [`Stalled`] when there is no room and nothing is read for as long as `patience`.
    pub(crate) async fn put(&self, bytes: &[u8], patience: Option<Duration>) -> Result<bool, Stalled> {
        for piece in bytes.chunks(MAX_TAKE) {
            loop {
                match self.try_put(piece) {
                    Put::Queued => break,
                    Put::Discarded => return Ok(false),
                    Put::Full => {}
                }
                let room = self.writable.notified();
                match patience {
                    None => room.await,
                    Some(patience) => tokio::time::timeout(patience, room).await.map_err(|_| Stalled)?,
                }
            }
        }
        Ok(true)
    }

    /// Notes that nothing more arrives; only the first end has an effect.
    pub(crate) fn end(&self, end: Result<(), StreamError>) {
        let mut state = self.lock();
        state.end.get_or_insert(end);
        state.broken = state.broken.or(end.err());
        drop(state);
        self.readable.notify_one();
        self.writable.notify_one();
        self.broke.notify_waiters();
    }

    async fn broken(&self) -> StreamError {
        loop {
            let mut broke = std::pin::pin!(self.broke.notified());
            broke.as_mut().enable();
            if let Some(error) = self.lock().broken {
                return error;
            }
            broke.await;
        }
    }

    async fn take(&self) -> Result<Option<Bytes>, StreamError> {
        loop {
            {
                let mut state = self.lock();
                if !state.bytes.is_empty() {
                    let length = state.bytes.len().min(MAX_TAKE);
                    let bytes = state.bytes.split_to(length).freeze();
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

    /// Marks the queue as not read any more, and returns the number of unread bytes.
    fn abandon(&self) -> usize {
        let mut state = self.lock();
        state.abandoned = true;
        let unread = std::mem::take(&mut state.bytes).len();
        drop(state);
        self.writable.notify_one();
        unread
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_stuck(future: impl Future) -> bool {
        tokio::time::timeout(Duration::from_millis(50), future).await.is_err()
    }

    #[tokio::test]
    async fn a_full_queue_makes_its_writer_wait_until_it_is_read() {
        let queue = Queue::default();
        assert_eq!(queue.put(&[1; WINDOW], None).await, Ok(true));
        assert_eq!(queue.try_put(b"more"), Put::Full);
        assert!(is_stuck(queue.put(b"more", None)).await);
        assert_eq!(queue.take().await.unwrap().unwrap().len(), MAX_TAKE);
        assert_eq!(queue.put(b"more", None).await, Ok(true));
        for _ in 1..WINDOW / MAX_TAKE {
            assert_eq!(queue.take().await.unwrap().unwrap().len(), MAX_TAKE);
        }
        assert_eq!(queue.take().await.unwrap().unwrap(), "more");
        assert!(is_stuck(queue.take()).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_is_stalled_and_a_slow_one_is_not() {
        let (queue, patience) = (Queue::default(), Some(Duration::from_secs(10)));
        assert_eq!(queue.put(&[1; WINDOW], patience).await, Ok(true));
        let slow = async {
            loop {
                tokio::time::sleep(Duration::from_secs(9)).await;
                queue.take().await.unwrap();
            }
        };
        tokio::select! {
            put = queue.put(&[1; 4 * WINDOW], patience) => assert_eq!(put, Ok(true)),
            () = slow => {}
        }
        assert_eq!(queue.put(&[1; WINDOW], patience).await, Err(Stalled));
    }

    #[tokio::test]
    async fn what_arrived_before_the_end_is_read_before_it() {
        let queue = Queue::default();
        queue.put(b"last", None).await.unwrap();
        queue.end(Err(StreamError::Reset));
        queue.end(Ok(()));
        assert_eq!(queue.put(b"too late", None).await, Ok(false));
        assert_eq!(queue.take().await.unwrap().unwrap(), "last");
        assert_eq!(queue.take().await, Err(StreamError::Reset));
    }

    #[tokio::test]
    async fn a_breakage_is_seen_behind_unread_bytes_and_after_a_half_close() {
        let queue = Queue::default();
        queue.put(b"unread", None).await.unwrap();
        queue.end(Ok(()));
        assert!(is_stuck(queue.broken()).await);
        let reset = async { queue.end(Err(StreamError::Reset)) };
        assert_eq!(tokio::join!(queue.broken(), reset).0, StreamError::Reset);
        assert_eq!(queue.broken().await, StreamError::Reset);
    }

    #[tokio::test]
    async fn a_queue_that_is_not_read_any_more_holds_nothing_and_stops_no_writer() {
        let queue = Queue::default();
        queue.put(&[1; WINDOW], None).await.unwrap();
        assert_eq!(queue.abandon(), WINDOW);
        assert_eq!(queue.put(&[1; WINDOW], None).await, Ok(false));
        assert_eq!(queue.lock().bytes.capacity(), 0);
    }
}
