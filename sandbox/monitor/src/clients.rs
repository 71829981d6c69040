//! Clients that receive a copy of an output, each through a pipe that never blocks.
//!
//! ```text
//!  output ─> write ─ all of it ──────────────────────────────> next
//!              └─ a part: the rest waits, the output is not read ─ room within PATIENCE ─> next
//!                                                        └─ none: the pipe is closed
//! ```
//!
//! The server reads these pipes at once, whatever its own clients do. A full pipe means that the server has
//! not run for a moment: closing it then would disconnect a client that is not slow. A server that does not
//! run at all delays the container once, for a short time.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

/// Time limit for a full pipe.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pause between tries.
const RETRY: Duration = Duration::from_millis(2);
/// Limit for clients: each takes a descriptor, and a write for each piece of output.
const MAX: usize = 64;

#[derive(Default)]
pub(crate) struct Clients {
    all: Vec<Client>,
    retry_at: Option<Instant>,
}

struct Client {
    pipe: OwnedFd,
    /// The data that the pipe did not accept.
    rest: Vec<u8>,
    /// The time when it last accepted data, or when it got the data that it has not accepted.
    progress: Instant,
}

impl Clients {
    /// # Errors
    /// There are too many.
    pub(crate) fn add(&mut self, pipe: OwnedFd) -> Result<(), Errno> {
        // A container without output would never notice that clients have left.
        self.all.retain(|client| client.is_read());
        if self.all.len() >= MAX {
            return Err(Errno::USERS);
        }
        self.all.push(Client { pipe, rest: Vec::new(), progress: Instant::now() });
        Ok(())
    }

    /// Must only be called while no client has a rest: see [`retry_at`](Self::retry_at).
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let now = Instant::now();
        self.all.retain_mut(|client| {
            client.progress = now;
            client.write(bytes)
        });
        self.plan();
    }

    /// The time for [`retry`](Self::retry); until then the output must not be read. None when no client has a
    /// rest.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Writes the rests, and drops clients that did not accept theirs in time.
    pub(crate) fn retry(&mut self) {
        self.all.retain_mut(|client| {
            let rest = std::mem::take(&mut client.rest);
            rest.is_empty() || client.write(&rest)
        });
        self.plan();
    }

    /// Drops clients that have a rest: there is no more time.
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
    /// Returns false when it must be closed.
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
