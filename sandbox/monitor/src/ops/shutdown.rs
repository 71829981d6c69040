//! Ends the monitor.

use std::time::{Duration, Instant};

use crisp_monitor::wire::{Failure, request};
use rustix::process::Signal;

use crate::exec::Exec;
use crate::launch::Requester;
use crate::monitor::ending::Ending;
use crate::monitor::{Call, Monitor, Reply};

/// Time limit for killed processes: one that waits for a broken device does not die by SIGKILL.
const PATIENCE: Duration = Duration::from_secs(20);

impl Monitor {
    pub(super) fn shutdown(&mut self, call: Call) -> Result<Reply, Failure> {
        let requester = call.requester;
        let request::Shutdown { force } = call.read()?;
        if self.ending.has_begun() {
            return Err(Failure::ShuttingDown);
        }
        let running = self.containers.values().filter(|container| container.is_alive()).count();
        if running > 0 && !force {
            return Err(Failure::ContainersRunning { count: u32::try_from(running).unwrap_or(u32::MAX) });
        }
        self.kill_all(Some(requester));
        Ok(Reply::Later)
    }

    fn kill_all(&mut self, requester: Option<Requester>) {
        self.containers.values_mut().filter(|container| container.is_alive()).for_each(|container| {
            let _ = container.signal(Signal::KILL, true);
        });
        self.execs.values_mut().for_each(Exec::kill_group);
        self.pod.end_init();
        self.ending = Ending::Killing { requester, give_up_at: Instant::now() + PATIENCE };
    }

    /// Ends after the last container, or when everything was killed. The response is sent last.
    pub(crate) fn finish_shutdown(&mut self, now: Instant) {
        let left = self.containers.values().filter(|container| container.is_ongoing()).count();
        if matches!(self.ending, Ending::WithContainers) && left == 0 {
            self.kill_all(None);
        }
        let Ending::Killing { requester, give_up_at } = &self.ending else { return };
        let (requester, give_up_at) = (*requester, *give_up_at);
        if left == 0 && self.execs.is_empty() && self.pod.init_pid().is_none() {
            // Before the response: then the ports are free as soon as the server closes its copies.
            self.release_ports();
            requester.into_iter().for_each(|requester| self.respond(requester, ()));
            self.ending = Ending::Over;
        } else if now >= give_up_at {
            self.ending = if requester.is_some() { Ending::No } else { Ending::WithContainers };
            let count = u32::try_from(left).unwrap_or(u32::MAX);
            if let Some(requester) = requester {
                self.refuse(requester, Failure::ContainersRunning { count });
            }
        }
    }
}
