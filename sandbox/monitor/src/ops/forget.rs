//! A container that nobody asks for any more.

use crisp_monitor::wire::{ExitRecord, Failure, request};

use crate::monitor::{Answer, Call, Monitor};

impl Monitor {
    pub(super) fn forget(&mut self, call: Call) -> Result<Answer, Failure> {
        let request::Forget { container: id } = call.body()?;
        let (key, container) = self.find(&id)?;
        if container.is_ongoing() {
            return Err(Failure::StillRunning { container: id.to_string() });
        }
        self.drop_container(key);
        self.pod.remove_record(&ExitRecord::file_name(&id));
        Ok(Answer::done())
    }
}
