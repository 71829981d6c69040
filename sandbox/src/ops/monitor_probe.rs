//! Whether a pod's monitor can be reached, is silent, or has ended.

use std::time::Duration;

use crisp_executor::ids::PodId;
use rustix::io::Errno;

use super::monitor_process::is_monitor;
use crate::link::{LinkError, MonitorLink};
use crate::service_state::ServiceState;

/// For a monitor of an earlier server to answer, before it counts as silent.
pub(crate) const ANSWER: Duration = Duration::from_secs(3);

/// What one try to reach a monitor shows.
pub(crate) enum Probe {
    Reached(MonitorLink),
    /// It may live: a slow monitor on a thrashing host is not an ended one.
    Silent(LinkError),
    /// It has ended.
    Gone,
}

/// Tries once to connect to the monitor of `pod`, whose process id may be `pid`.
pub(crate) async fn probe(
    service: &ServiceState,
    pod: &PodId,
    pid: Option<i32>,
    deadline: Duration,
) -> Probe {
    match MonitorLink::connect(&service.layout.socket(pod), deadline).await {
        Ok(link) => Probe::Reached(link),
        // The kernel closes a process's sockets with it: the monitor, which listens as long as it lives,
        // has ended.
        Err(LinkError::Connect { errno: Errno::CONNREFUSED, .. }) => Probe::Gone,
        // The socket's file may have been deleted under a living monitor.
        Err(LinkError::Connect { errno: Errno::NOENT, .. })
            if !pid.is_some_and(|pid| is_monitor(pid, pod)) =>
        {
            Probe::Gone
        }
        Err(error) => Probe::Silent(error),
    }
}
