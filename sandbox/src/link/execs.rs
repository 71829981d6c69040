//! The execs of a link: who waits for which end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crisp_monitor::wire::request::KillExec;
use crisp_monitor::wire::{ExitStatus, Failure, Header, Op, packet};
use tokio::sync::watch;

use super::LinkError;
use super::reader::Shared;

/// How an exec ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecEnd {
    pub status: ExitStatus,
    /// Nanoseconds since 1970.
    pub finished_at_ns: i64,
}

#[derive(Default)]
pub(super) struct Execs(Mutex<HashMap<u64, watch::Sender<Option<ExecEnd>>>>);

impl Execs {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, watch::Sender<Option<ExecEnd>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its end arrived.
    pub(super) fn ended(&self, exec: u64, end: ExecEnd) {
        if let Some(waiters) = self.lock().get(&exec) {
            waiters.send_replace(Some(end));
        }
    }

    /// The connection is over: every waiter sees its channel closed.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }
}

impl Shared {
    pub(super) async fn wait_exec(&self, exec: u64) -> Result<ExecEnd, LinkError> {
        let waiter = self.execs.lock().get(&exec).map(watch::Sender::subscribe);
        let Some(mut waiter) = waiter else {
            if self.is_closed() {
                return Err(self.gone("wait exec"));
            }
            return Err(LinkError::Refused { request: "wait exec", failure: Failure::UnknownExec { exec } });
        };
        let end = waiter.wait_for(Option::is_some).await.map(|end| *end);
        self.execs.lock().remove(&exec);
        end.ok().flatten().ok_or_else(|| self.gone("wait exec"))
    }
}

/// Kills the exec when dropped before it is known to run.
pub(super) struct ExecGuard {
    shared: Arc<Shared>,
    exec: u64,
    kept: bool,
}

impl ExecGuard {
    pub(super) fn register(shared: &Arc<Shared>, exec: u64) -> Result<Self, LinkError> {
        let mut execs = shared.execs.lock();
        if execs.contains_key(&exec) {
            return Err(LinkError::Refused { request: "exec", failure: Failure::ExecExists { exec } });
        }
        execs.insert(exec, watch::Sender::new(None));
        Ok(Self { shared: Arc::clone(shared), exec, kept: false })
    }

    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for ExecGuard {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        self.shared.execs.lock().remove(&self.exec);
        // Where the exec never came to be, the monitor answers that it knows none: nobody listens.
        let header = Header::request(Op::KillExec, self.shared.next_id());
        if let Ok(body) = postcard::to_allocvec(&KillExec { exec: self.exec }) {
            let _ = packet::send(self.shared.socket.get_ref(), header, &body, &[]);
        }
    }
}
