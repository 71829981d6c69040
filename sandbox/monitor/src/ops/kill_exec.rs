//! An end for an exec.

use crisp_monitor::wire::{Failure, request};

use crate::monitor::{Answer, Call, Monitor};

impl Monitor {
    pub(super) fn kill_exec(&mut self, call: Call) -> Result<Answer, Failure> {
        let connection = call.connection;
        let request::KillExec { exec: id } = call.body()?;
        let exec = self.execs.values().find(|exec| exec.connection == connection && exec.id == id);
        exec.ok_or(Failure::UnknownExec { exec: id })?.kill();
        Ok(Answer::done())
    }
}
