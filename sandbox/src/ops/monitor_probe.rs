//! Checks whether a pod's monitor can be reached, is silent, or has ended.

use std::time::Duration;

use crisp_executor::ids::PodId;
use rustix::io::Errno;

use super::monitor_process::is_monitor;
use crate::link::{LinkError, MonitorLink};
use crate::service_state::ServiceState;

/// Time limit for a monitor of an earlier server; after it the monitor counts as silent.
pub(crate) const ANSWER: Duration = Duration::from_secs(3);

/// The result of one try to reach a monitor.
pub(crate) enum Probe {
    Reached(MonitorLink),
    /// It may live: on a thrashing host a monitor can be slow.
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
        // The kernel closes the sockets of a process when it ends, and a monitor listens as long as it lives:
        // this one has ended.
        Err(LinkError::Connect { errno: Errno::CONNREFUSED, .. }) => Probe::Gone,
        // The socket's file may have been deleted while the monitor lives.
        Err(LinkError::Connect { errno: Errno::NOENT, .. })
            if !pid.is_some_and(|pid| is_monitor(pid, pod)) =>
        {
            Probe::Gone
        }
        Err(error) => Probe::Silent(error),
    }
}
