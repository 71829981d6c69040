//! Signals to containers and execs.

use crisp_monitor::wire::{Failure, request};
use rustix::io::Errno;
use rustix::process::Signal;

use super::system;
use crate::exec::{Exec, Leftover};
use crate::monitor::{Call, Monitor, Reply};
use crate::sys;

impl Monitor {
    /// Signals a container.
    pub(super) fn signal(&mut self, call: Call) -> Result<Reply, Failure> {
        let request::Signal { container: id, signal, all } = call.read()?;
        let signal = sys::signal(signal)
            .ok_or_else(|| Failure::Malformed { reason: format!("no signal has number {signal}") })?;
        let (_, container) = self.find(&id)?;
        if !container.is_alive() {
            return Err(Failure::NotRunning { container: id.to_string() });
        }
        match container.signal(signal, all) {
            Ok(()) => {}
            // It has ended, but was not reaped yet.
            Err(Errno::SRCH) => return Err(Failure::NotRunning { container: id.to_string() }),
            Err(errno) => return Err(system("signal the container")(errno)),
        }
        if all && signal == Signal::KILL {
            self.execs.values_mut().filter(|exec| exec.container == id).for_each(Exec::kill_group);
        }
        Ok(Reply::done())
    }

    /// Signals an exec.
    pub(super) fn signal_exec(&mut self, call: Call) -> Result<Reply, Failure> {
        let connection = call.requester.connection;
        let request::SignalExec { exec: id, signal } = call.read()?;
        let signal = sys::signal(signal)
            .ok_or_else(|| Failure::Malformed { reason: format!("no signal has number {signal}") })?;
        let exec = self.execs.values_mut().find(|exec| exec.connection == connection && exec.id == id);
        // What one that has ended by itself has left may be wanted.
        let exec = exec.filter(|exec| !exec.process.has_ended()).ok_or(Failure::UnknownExec { exec: id })?;
        exec.process.signal_group(signal).map_err(system("signal the exec"))?;
        exec.has_hup |= signal == Signal::HUP;
        Ok(Reply::done())
    }

    /// Kills an exec, or what it has left after its SIGHUP.
    pub(super) fn kill_exec(&mut self, call: Call) -> Result<Reply, Failure> {
        let connection = call.requester.connection;
        let request::KillExec { exec: id } = call.read()?;
        let is_its = |left: &mut Leftover| left.connection == connection && left.exec == id;
        if let Some(leftover) = self.leftovers.extract_if(.., is_its).next() {
            leftover.kill();
            return Ok(Reply::done());
        }
        let exec = self.execs.values_mut().find(|exec| exec.connection == connection && exec.id == id);
        exec.ok_or(Failure::UnknownExec { exec: id })?.kill_as_requested();
        Ok(Reply::done())
    }
}
