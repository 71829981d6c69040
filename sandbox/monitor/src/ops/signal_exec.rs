//! Signals an exec.

use crisp_monitor::wire::{Failure, request};

use super::system;
use crate::monitor::{Call, Monitor, Reply};
use crate::sys;

impl Monitor {
    pub(super) fn signal_exec(&mut self, call: Call) -> Result<Reply, Failure> {
        let connection = call.requester.connection;
        let request::SignalExec { exec: id, signal } = call.read()?;
        let signal = sys::signal(signal)
            .ok_or_else(|| Failure::Malformed { reason: format!("no signal has number {signal}") })?;
        let exec = self.execs.values().find(|exec| exec.connection == connection && exec.id == id);
        let exec = exec.ok_or(Failure::UnknownExec { exec: id })?;
        exec.signal(signal).map_err(system("signal the exec"))?;
        Ok(Reply::done())
    }
}
