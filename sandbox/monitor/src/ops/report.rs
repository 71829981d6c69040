//! Lists all containers.

use crisp_executor::id::ContainerId;
use crisp_monitor::wire::Failure;
use crisp_monitor::wire::response::PodReport;

use crate::monitor::{Monitor, Reply};

impl Monitor {
    pub(super) fn report(&self) -> Result<Reply, Failure> {
        let execs_of = |id: &ContainerId| self.execs.values().filter(|exec| exec.container == *id).count();
        let containers = self.containers.values();
        let containers =
            containers.map(|c| c.report(u32::try_from(execs_of(&c.id)).unwrap_or(u32::MAX))).collect();
        Reply::with(PodReport { opened: self.pod.is_open(), init: self.pod.init_pid(), containers })
    }
}
