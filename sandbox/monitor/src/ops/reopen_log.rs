//! Gives a container another log file, as after a rotation.

use crisp_monitor::wire::{Failure, request};

use crate::monitor::{Call, Monitor, Reply, outputs};

impl Monitor {
    pub(super) fn reopen_log(&mut self, call: Call) -> Result<Reply, Failure> {
        let request::ReopenLog { container: id, log } = call.read()?;
        let (key, _) = self.find(&id)?;
        if let Some(container) = self.containers.get_mut(&key) {
            let change = container.log.reopen(log);
            outputs::watch(&self.poller, key, container);
            self.report_log_changes(&id, vec![change]);
        }
        Ok(Reply::done())
    }
}
