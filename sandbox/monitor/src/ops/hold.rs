//! Holds back a process that may trace others until no process is on its way that it could take.
//!
//! While no process of the pod may trace, others are cloned straight into the PID namespace that they join: with the
//! rights and descriptors of the monitor until their exec. From the request of a tracer on they come from helpers, but
//! those that are under way are exposed to it.

use std::time::Instant;

use crisp_executor::plan::Process;
use crisp_executor::run::{Stage, StageError};
use crisp_monitor::wire::Failure;
use rustix::io::Errno;

use crate::container::Phase;
use crate::held::{Held, HeldRequest};
use crate::launch::{Launch, Requester};
use crate::monitor::Monitor;

impl Monitor {
    /// Notes the rights of a process that is about to be started in the PID namespace of others. Returns whether it has
    /// to be held.
    pub(crate) fn must_wait(&mut self, process: &Process) -> bool {
        self.pod.note_rights(process);
        process.may_trace() && self.has_exposed() && {
            self.read_unpolled_reports();
            self.has_exposed()
        }
    }

    /// Reads the reports that are not polled: their processes may have exec'd long ago.
    fn read_unpolled_reports(&mut self) {
        let unpolled = self.execs.iter().filter(|(_, exec)| exec.read_at().is_some());
        for key in unpolled.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.read_unpolled_report(key);
        }
    }

    fn has_exposed(&self) -> bool {
        let starting = |phase: &Phase| matches!(phase, Phase::Starting(Launch { is_exposed: true, .. }));
        self.containers.values().any(|container| starting(&container.phase))
            || self.execs.values().any(|exec| exec.launch.as_ref().is_some_and(|launch| launch.is_exposed))
    }

    pub(crate) fn hold(&mut self, requester: Requester, request: Held) {
        self.held.push(HeldRequest::new(requester, request));
    }

    /// Goes on with what was held, if nothing is exposed any more, and refuses what has been held for too long.
    pub(crate) fn release_held(&mut self, now: Instant) {
        if self.held.is_empty() {
            return;
        }
        let is_free = !self.has_exposed();
        let due: Vec<_> = self.held.extract_if(.., |held| is_free || held.until <= now).collect();
        for HeldRequest { requester, request, .. } in due {
            let result = match request {
                _ if !is_free => Err(Failure::Stage(refused())),
                Held::Start(request) => self.start_or_hold(requester, *request),
                Held::Exec(request) => self.exec_or_hold(requester, *request),
            };
            if let Err(failure) = result {
                self.refuse(requester, failure);
            }
        }
    }
}

fn refused() -> StageError {
    let why = "process: it may trace others (CAP_SYS_PTRACE), and one of them does not come through its own start; try \
               again";
    StageError::explained(Stage::Clone, Errno::TIMEDOUT, why)
}
