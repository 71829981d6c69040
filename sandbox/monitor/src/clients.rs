//! Clients that want a copy of an output, each through a pipe that never blocks.
//!
//! ```text
//!  output ─> write ─ all of it ──────────────────────────────> next
//!              └─ a part: the rest waits, the output is not read ─ room within PATIENCE ─> next
//!                                                        └─ none: the pipe is closed
//! ```
//!
//! The server reads these pipes at once, whatever its own clients do. A full one is a server that has not run
//! for a moment: to close it then would cut off a client that is not slow. One that does not run at all holds
//! the container up once, and not for long.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

/// How long a full pipe is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between tries.
const RETRY: Duration = Duration::from_millis(2);
/// Each takes a descriptor, and a write for each piece of output.
const MAX: usize = 64;

#[derive(Default)]
pub(crate) struct Clients {
    all: Vec<Client>,
    retry_at: Option<Instant>,
}

struct Client {
    pipe: OwnedFd,
    /// What the pipe did not take.
    rest: Vec<u8>,
    /// When it took something last, or was given what it has not taken.
    progress: Instant,
}

impl Clients {
    /// # Errors
    /// There are too many.
    pub(crate) fn add(&mut self, pipe: OwnedFd) -> Result<(), Errno> {
        // A container that prints nothing never finds out who has left.
        self.all.retain(|client| client.is_read());
        if self.all.len() >= MAX {
            return Err(Errno::USERS);
        }
        self.all.push(Client { pipe, rest: Vec::new(), progress: Instant::now() });
        Ok(())
    }

    /// Only while no client has a rest: see [`retry_at`](Self::retry_at).
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let now = Instant::now();
        self.all.retain_mut(|client| {
            client.progress = now;
            client.write(bytes)
        });
        self.plan();
    }

    /// When [`retry`](Self::retry) is due, and until then the output is not to be read. None: all have all.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Writes what is left, and gives up those that were waited for too long.
    pub(crate) fn retry(&mut self) {
        self.all.retain_mut(|client| {
            let rest = std::mem::take(&mut client.rest);
            rest.is_empty() || client.write(&rest)
        });
        self.plan();
    }

    /// Gives up those that have not taken all: there is no more time.
    pub(crate) fn give_up(&mut self) {
        self.all.retain(|client| client.rest.is_empty());
        self.retry_at = None;
    }

    fn plan(&mut self) {
        let has_rest = self.all.iter().any(|client| !client.rest.is_empty());
        self.retry_at = has_rest.then(|| Instant::now() + RETRY);
    }
}

impl Client {
    /// False: it is to be closed.
    fn write(&mut self, bytes: &[u8]) -> bool {
        let written = match rustix::io::write(&self.pipe, bytes) {
            Ok(written) => written,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => return false,
        };
        if written > 0 {
            self.progress = Instant::now();
        }
        self.rest.extend_from_slice(&bytes[written..]);
        self.rest.is_empty() || self.progress.elapsed() < PATIENCE
    }

    /// Whether the reading end of its pipe is open.
    fn is_read(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.pipe, PollFlags::empty())];
        poll(&mut fds, Some(&now)).is_ok() && !fds[0].revents().contains(PollFlags::ERR)
    }
}
