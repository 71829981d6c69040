//! Kills an exec.

use crisp_monitor::wire::{Failure, request};

use crate::monitor::{Call, Monitor, Reply};

impl Monitor {
    pub(super) fn kill_exec(&mut self, call: Call) -> Result<Reply, Failure> {
        let connection = call.requester.connection;
        let request::KillExec { exec: id } = call.read()?;
        let exec = self.execs.values().find(|exec| exec.connection == connection && exec.id == id);
        exec.ok_or(Failure::UnknownExec { exec: id })?.kill();
        Ok(Reply::done())
    }
}
