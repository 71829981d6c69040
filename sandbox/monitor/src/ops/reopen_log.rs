//! A new log file, after the old one was moved away.

use crisp_monitor::wire::{Failure, request};

use crate::monitor::{Answer, Call, Monitor, outputs};

impl Monitor {
    pub(super) fn reopen_log(&mut self, call: Call) -> Result<Answer, Failure> {
        let (request::ReopenLog { container: id }, mut fds) = call.take()?;
        let file = fds.next("the log file")?;
        let (key, _) = self.find(&id)?;
        if let Some(container) = self.containers.get_mut(&key) {
            let change = container.log.reopen(file);
            outputs::watch(&self.poller, key, container);
            self.tell_changes(&id, vec![change]);
        }
        Ok(Answer::done())
    }
}
