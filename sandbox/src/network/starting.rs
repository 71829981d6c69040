//! Starts of processes, and sockets whose ports are free when they are closed.
//!
//! Until it runs its program, a process that is being started has a copy of every descriptor of this one: a socket
//! that is closed here meanwhile still has its port.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Time limit for the starts that are under way. Each takes about a millisecond; a program on a disk that hangs
/// must hold nothing else up.
const PATIENCE: Duration = Duration::from_millis(100);

static STARTS: Starts = Starts { state: Mutex::new(State::new()), ended: Condvar::new() };

struct Starts {
    state: Mutex<State>,
    ended: Condvar,
}

struct State {
    next: u64,
    under_way: BTreeSet<u64>,
    waiting: usize,
}

impl State {
    const fn new() -> Self {
        Self { next: 0, under_way: BTreeSet::new(), waiting: 0 }
    }
}

/// Starts a process; `start` returns when that runs its program.
pub(super) fn start<T>(start: impl FnOnce() -> T) -> T {
    let number = {
        let mut state = STARTS.lock();
        state.next += 1;
        let number = state.next;
        state.under_way.insert(number);
        number
    };
    let started = start();
    STARTS.lock().under_way.remove(&number);
    STARTS.ended.notify_all();
    started
}

impl Starts {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until every process that was being started before runs its program.
    fn wait_for_earlier(&self, patience: Duration) {
        let mut state = self.lock();
        let last = state.next;
        state.waiting += 1;
        let has_earlier = |state: &mut State| state.under_way.first().is_some_and(|first| *first <= last);
        let waited = self.ended.wait_timeout_while(state, patience, has_earlier);
        waited.unwrap_or_else(PoisonError::into_inner).0.waiting -= 1;
    }
}

/// Sockets that no process being started has any more when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Sockets(pub Vec<OwnedFd>);

impl Drop for Sockets {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            self.0.clear();
            STARTS.wait_for_earlier(PATIENCE);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Instant;

    use super::*;

    /// A start that lasts until the sender is used or dropped.
    fn hanging() -> std::sync::mpsc::Sender<()> {
        let ((go_on, may_go_on), (begun, has_begun)) = (channel(), channel());
        std::thread::spawn(move || {
            start(|| {
                begun.send(()).unwrap();
                let _ = may_go_on.recv();
            })
        });
        has_begun.recv().unwrap();
        go_on
    }

    #[test]
    fn a_closed_socket_waits_for_the_starts_before_it_alone() {
        let earlier = hanging();
        let waiting = std::thread::spawn(|| STARTS.wait_for_earlier(Duration::from_secs(60)));
        while STARTS.lock().waiting == 0 {
            std::thread::yield_now();
        }
        let later = hanging();
        assert!(!waiting.is_finished());
        let begun = Instant::now();
        drop(earlier);
        waiting.join().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(30));
        // One that hangs is not waited for for ever.
        drop(Sockets(vec![std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into()]));
        drop(later);
    }
}
