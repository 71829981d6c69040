//! Sends the output of a container to an attached client, which must never make the container wait.
//!
//! ```text
//!   monitor ─> pipe ─> read at once ─> backlog ─> sent at the client's pace
//! ```
//!
//! A client is disconnected when it is too far behind:
//!
//! | behind | disconnected |
//! |---|---|
//! | up to 1 MiB | never |
//! | more | when it has read nothing for 10 seconds |
//! | more than 8 MiB, or all clients together more than 128 MiB | at once |

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use crisp_operation::Cancel;
use crisp_streaming::{StreamError, StreamWriter};
use tokio::sync::Notify;

use super::process_streams::{Output, READ, Source};

const PATIENT: usize = 1 << 20;
const MOST: usize = 8 << 20;
const MOST_OF_ALL: usize = 128 << 20;
const STALLED: Duration = Duration::from_secs(10);
/// Bytes of one send: the progress of a slow client is measured in these steps.
const STEP: usize = 16 << 10;

/// Bytes that all clients together are behind.
static BEHIND: AtomicUsize = AtomicUsize::new(0);

/// The client is too far behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TooSlow;

/// Output that was read and not sent yet.
struct Backlog {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    bytes: BytesMut,
    is_over: bool,
    /// The last time at which the client read something or had nothing to read.
    progress: Instant,
}

/// The reason why copying ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copied {
    /// The output has ended and the client has all of it.
    All,
    /// The client wants no more output, or is gone.
    ClientLeft,
    TooSlow,
}

/// Copies until the output ends or the client leaves. Once the container has `ended`, the output ends when
/// nothing more comes: a container whose log is blocked has no proper end of output.
pub(super) async fn copy(from: &mut Source, mut to: StreamWriter, ended: &Cancel) -> Copied {
    let backlog = Backlog::new();
    let sent = tokio::select! {
        sent = backlog.send(&mut to) => sent,
        TooSlow = backlog.fill(from, ended) => return Copied::TooSlow,
        TooSlow = backlog.watch() => return Copied::TooSlow,
    };
    match sent {
        Ok(()) => {
            let _ = to.close().await;
            Copied::All
        }
        Err(_) => Copied::ClientLeft,
    }
}

impl Backlog {
    fn new() -> Self {
        let state = State { bytes: BytesMut::new(), is_over: false, progress: Instant::now() };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns only when the client is too far behind.
    async fn fill(&self, from: &mut Source, ended: &Cancel) -> TooSlow {
        let mut output = Output::passed_on(from, ended);
        let mut buffer = BytesMut::new();
        loop {
            buffer.clear();
            buffer.reserve(READ);
            let Ok(1..) = output.read(&mut buffer).await else { break };
            if let Err(slow) = self.add(&buffer) {
                return slow;
            }
        }
        self.lock().is_over = true;
        self.changed.notify_one();
        std::future::pending().await
    }

    fn add(&self, bytes: &[u8]) -> Result<(), TooSlow> {
        let mut state = self.lock();
        let all = BEHIND.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
        if state.bytes.is_empty() {
            state.progress = Instant::now();
        }
        state.bytes.extend_from_slice(bytes);
        if state.bytes.len() > MOST || (all > MOST_OF_ALL && state.bytes.len() > READ) {
            return Err(TooSlow);
        }
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Sends until the output has ended and all of it is sent.
    async fn send(&self, to: &mut StreamWriter) -> Result<(), StreamError> {
        loop {
            let Some(piece) = self.take() else {
                self.changed.notified().await;
                continue;
            };
            if piece.is_empty() {
                return Ok(());
            }
            to.write(&piece).await?;
            self.lock().progress = Instant::now();
        }
    }

    /// The next bytes; empty at the end. None when there are none yet.
    fn take(&self) -> Option<BytesMut> {
        let mut state = self.lock();
        let length = state.bytes.len().min(STEP);
        BEHIND.fetch_sub(length, Ordering::Relaxed);
        (length > 0 || state.is_over).then(|| state.bytes.split_to(length))
    }

    /// Returns when the client is far behind and reads nothing.
    async fn watch(&self) -> TooSlow {
        loop {
            tokio::time::sleep(STALLED / 10).await;
            if self.is_stalled(Instant::now()) {
                return TooSlow;
            }
        }
    }

    fn is_stalled(&self, now: Instant) -> bool {
        let state = self.lock();
        state.bytes.len() > PATIENT && now.duration_since(state.progress) >= STALLED
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        BEHIND.fetch_sub(self.lock().bytes.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_may_be_a_little_behind_for_ever_and_far_behind_while_it_takes_something() {
        let backlog = Backlog::new();
        backlog.add(&[0; PATIENT]).unwrap();
        let begun = Instant::now();
        assert!(!backlog.is_stalled(begun + 100 * STALLED));
        backlog.add(&[0; 1]).unwrap();
        assert!(!backlog.is_stalled(begun));
        assert!(backlog.is_stalled(begun + STALLED));
        backlog.lock().progress = begun + STALLED;
        assert!(!backlog.is_stalled(begun + STALLED));
    }

    #[test]
    fn a_client_that_is_very_far_behind_is_cut_off_at_once() {
        let backlog = Backlog::new();
        backlog.add(&[0; MOST]).unwrap();
        assert_eq!(backlog.add(&[0; 1]), Err(TooSlow));
    }
}
