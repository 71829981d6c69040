//! Signals a container.

use crisp_monitor::wire::{Failure, request};
use rustix::io::Errno;
use rustix::process::Signal;

use super::system;
use crate::monitor::{Call, Monitor, Reply};
use crate::sys;

impl Monitor {
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
            // Ended, and not reaped yet.
            Err(Errno::SRCH) => return Err(Failure::NotRunning { container: id.to_string() }),
            Err(errno) => return Err(system("signal the container")(errno)),
        }
        if all && signal == Signal::KILL {
            self.execs.values().filter(|exec| exec.container == id).for_each(|exec| exec.kill());
        }
        Ok(Reply::done())
    }
}
