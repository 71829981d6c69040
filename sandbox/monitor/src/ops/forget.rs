//! Drops an ended container.

use crisp_monitor::wire::{ExitRecord, Failure, request};

use crate::monitor::{Call, Monitor, Reply};

impl Monitor {
    pub(super) fn forget(&mut self, call: Call) -> Result<Reply, Failure> {
        let request::Forget { container: id } = call.read()?;
        let (key, container) = self.find(&id)?;
        if container.is_ongoing() {
            return Err(Failure::StillRunning { container: id.to_string() });
        }
        self.drop_container(key);
        self.pod.remove_record(&ExitRecord::file_name(&id));
        Ok(Reply::done())
    }
}
