//! A streamed response that a thread makes, piece by piece. A client that takes nothing is let go: it would keep the
//! thread, and what the thread has open.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Time limit for a client to receive or send a piece.
pub(crate) const CLIENT: Duration = Duration::from_secs(60);
/// Pieces that wait for the client.
const AHEAD: usize = 4;

/// The thread's end of the stream.
pub(crate) struct Pieces<T> {
    handle: Handle,
    sender: mpsc::Sender<T>,
    /// There is always room for the last piece: it may say that the client was too slow.
    last: Option<mpsc::OwnedPermit<T>>,
    limit: Duration,
}

/// Why a piece does not reach the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undelivered {
    Gone,
    Slow,
}

impl<T> Pieces<T> {
    /// Called in the runtime.
    pub(crate) fn channel() -> (Self, mpsc::Receiver<T>) {
        let (sender, receiver) = mpsc::channel(AHEAD + 1);
        let last = sender.clone().try_reserve_owned().ok();
        (Self { handle: Handle::current(), sender, last, limit: CLIENT }, receiver)
    }

    /// Waits for the client, within the time limit. Blocks.
    ///
    /// # Errors
    /// The client has left or takes nothing.
    pub(crate) fn send(&self, piece: T) -> Result<(), Undelivered> {
        let sent =
            self.handle.block_on(async { tokio::time::timeout(self.limit, self.sender.send(piece)).await });
        sent.map_err(|_| Undelivered::Slow)?.map_err(|_| Undelivered::Gone)
    }

    /// Ends the stream with a piece, without waiting.
    pub(crate) fn end(self, piece: T) {
        // If the client does not receive this either, it is gone.
        let _ = self.last.map(|last| last.send(piece));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_client_that_takes_nothing_is_let_go() {
        let (mut pieces, mut receiver) = Pieces::channel();
        pieces.limit = Duration::from_millis(50);
        let thread = std::thread::spawn(move || {
            let slow = (0..).find_map(|number| pieces.send(number).err());
            pieces.end(-1);
            slow
        });
        assert_eq!(
            tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap(),
            Some(Undelivered::Slow)
        );
        let mut all = Vec::new();
        while let Some(piece) = receiver.recv().await {
            all.push(piece);
        }
        assert_eq!(all, [0, 1, 2, 3, -1], "it can see that its list is not complete");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_client_that_left_ends_the_work() {
        let (pieces, receiver) = Pieces::channel();
        drop(receiver);
        let sent = tokio::task::spawn_blocking(move || pieces.send(1)).await.unwrap();
        assert_eq!(sent, Err(Undelivered::Gone));
    }
}
