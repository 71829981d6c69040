//! The events that the monitor waits for: an epoll with typed tokens.

use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;

/// Keys of connections, containers and execs; never used twice.
pub(crate) type Key = u32;

/// The source that became ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    Listener,
    /// A child has ended, or the monitor must end.
    Signals,
    Connection(Key),
    /// The report of a starting container or exec.
    Launch(Key),
    Stdout(Key),
    Stderr(Key),
}

impl Token {
    fn to_data(self) -> EventData {
        let (kind, key) = match self {
            Self::Listener => (0, 0),
            Self::Signals => (1, 0),
            Self::Connection(key) => (2, key),
            Self::Launch(key) => (3, key),
            Self::Stdout(key) => (4, key),
            Self::Stderr(key) => (5, key),
        };
        EventData::new_u64(kind << 32 | u64::from(key))
    }

    fn from_data(data: EventData) -> Option<Self> {
        let data = data.u64();
        let key = Key::try_from(data & u64::from(u32::MAX)).ok()?;
        Some(match data >> 32 {
            0 => Self::Listener,
            1 => Self::Signals,
            2 => Self::Connection(key),
            3 => Self::Launch(key),
            4 => Self::Stdout(key),
            5 => Self::Stderr(key),
            _ => return None,
        })
    }
}

/// Limit for the number of events in one wait.
const BATCH: usize = 16;

pub(crate) struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Poller {
    pub(crate) fn new() -> Result<Self, Errno> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, events: Vec::with_capacity(BATCH) })
    }

    /// Polls for reading.
    pub(crate) fn add(&self, source: impl AsFd, token: Token) -> Result<(), Errno> {
        epoll::add(&self.epoll, source, token.to_data(), EventFlags::IN)
    }

    /// Sets whether to poll for writing too.
    pub(crate) fn also_writing(&self, source: impl AsFd, token: Token, writing: bool) {
        let flags = if writing { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        let _ = epoll::modify(&self.epoll, source, token.to_data(), flags);
    }

    /// Stops polling. Needed even for a descriptor that will be closed: its copy in a child between clone and
    /// exec would stay ready here forever.
    pub(crate) fn remove(&self, source: impl AsFd) {
        let _ = epoll::delete(&self.epoll, source);
    }

    /// Waits, forever without a `timeout`, and returns the ready sources.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> Result<Vec<Token>, Errno> {
        let timeout = timeout.and_then(|t| Timespec::try_from(t).ok());
        self.events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        Ok(self.events.iter().filter_map(|event| Token::from_data(event.data)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for token in [Token::Listener, Token::Signals, Token::Launch(7), Token::Stderr(u32::MAX)] {
            assert_eq!(Token::from_data(token.to_data()), Some(token));
        }
    }
}
