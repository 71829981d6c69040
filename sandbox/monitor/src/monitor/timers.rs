//! Work at a certain time: log retries, late exits, memory, shutdown.

use std::time::{Duration, Instant};

use super::ending::Ending;
use super::{Monitor, outputs};
use crate::exec::Leftover;
use crate::poller::Key;
use crate::sys;

/// A monitor without a pod and without a connection ends after this time.
const UNUSED: Duration = Duration::from_secs(30);
/// Memory is returned after this much rest.
const REST: Duration = Duration::from_secs(2);

/// Returns memory to the kernel after a time of rest.
#[derive(Default)]
pub(crate) struct Tidy(Option<Instant>);

impl Tidy {
    /// Records that memory was used.
    pub(crate) fn later(&mut self) {
        if self.0.is_none() {
            self.0 = Some(Instant::now() + REST);
        }
    }
}

impl Monitor {
    /// The time until the next work.
    pub(super) fn timeout(&self) -> Option<Duration> {
        let containers =
            self.containers.values().flat_map(|c| [c.log.retry_at(), c.announce_at(), c.clients_retry_at()]);
        let execs = self.execs.values().flat_map(|exec| [exec.kill_at, exec.response.at(), exec.read_at()]);
        let leftovers = self.leftovers.iter().map(|leftover| leftover.kill_at);
        let held = self.held.iter().map(|held| Some(held.until));
        let own = [self.tidy.0, self.ending.give_up_at(), self.unused_at()];
        let next = containers.chain(execs).chain(leftovers).chain(held).chain(own).flatten().min()?;
        // Epoll counts in milliseconds: rounded up, so that it never wakes too early.
        Some(next.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
    }

    pub(super) fn timers(&mut self) {
        let now = Instant::now();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let retry: Vec<Key> =
            self.containers.iter().filter(|(_, c)| due(c.log.retry_at())).map(|(key, _)| *key).collect();
        for key in retry {
            self.retry_log(key);
        }
        let clients: Vec<Key> =
            self.containers.iter().filter(|(_, c)| due(c.clients_retry_at())).map(|(key, _)| *key).collect();
        for key in clients {
            self.retry_clients(key);
        }
        let announce: Vec<Key> =
            self.containers.iter().filter(|(_, c)| due(c.announce_at())).map(|(key, _)| *key).collect();
        for key in announce {
            self.announce_if_done(key, now);
        }
        let look: Vec<Key> =
            self.execs.iter().filter(|(_, exec)| due(exec.read_at())).map(|(key, _)| *key).collect();
        for key in look {
            self.read_unpolled_report(key);
        }
        let respond: Vec<Key> =
            self.execs.iter().filter(|(_, exec)| due(exec.response.at())).map(|(key, _)| *key).collect();
        for key in respond {
            self.respond_late(key);
        }
        for exec in self.execs.values_mut().filter(|exec| due(exec.kill_at)) {
            exec.kill_all();
            exec.kill_at = None;
        }
        self.leftovers.extract_if(.., |leftover| due(leftover.kill_at)).for_each(Leftover::kill);
        if due(self.tidy.0) {
            self.tidy.0 = None;
            self.scratch.free();
            sys::rest();
        }
        self.finish_shutdown(now);
    }

    fn retry_log(&mut self, key: Key) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        let change = container.log.retry();
        outputs::watch(&self.poller, key, container);
        let id = container.id.clone();
        self.report_log_changes(&id, vec![change]);
        self.announce_if_done(key, Instant::now());
    }

    pub(super) fn over(&self) -> bool {
        matches!(self.ending, Ending::Over) || self.unused_at().is_some_and(|at| at <= Instant::now())
    }

    fn unused_at(&self) -> Option<Instant> {
        (self.pod.is_fresh() && self.connections.is_empty()).then_some(self.began + UNUSED)
    }
}
