//! Lists all containers.

use crisp_executor::id::ContainerId;
use crisp_monitor::wire::Failure;
use crisp_monitor::wire::response::PodReport;

use crate::container::Container;
use crate::monitor::{Monitor, Reply};

/// Ended containers in a report, the latest. A message holds some 1,500; what is left out here has
/// its exit record.
const MOST_ENDED: usize = 1000;

impl Monitor {
    pub(super) fn report(&self) -> Result<Reply, Failure> {
        let execs_of = |id: &ContainerId| self.execs.values().filter(|exec| exec.container == *id).count();
        let mut ended = self.containers.values().filter(|container| !container.is_ongoing()).count();
        let fits = |container: &&Container| {
            let leave_out = !container.is_ongoing() && ended > MOST_ENDED;
            ended -= usize::from(leave_out);
            !leave_out
        };
        let containers = self.containers.values().filter(fits);
        let containers =
            containers.map(|c| c.report(u32::try_from(execs_of(&c.id)).unwrap_or(u32::MAX))).collect();
        Reply::with(PodReport { opened: self.pod.is_open(), init: self.pod.init_pid(), containers })
    }
}
