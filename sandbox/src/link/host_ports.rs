//! The sockets of host ports that a monitor keeps open for its pod.

use crisp_monitor::wire::Failure;
use crisp_monitor::wire::request::{CopyPorts, HoldPorts};
use rustix::fd::OwnedFd;

use super::{LinkError, MonitorLink};

impl MonitorLink {
    /// Gives the monitor more sockets to hold until it ends, in addition to those of [`OpenPod`](super::OpenPod).
    ///
    /// # Errors
    /// [`Failure::UnknownOperation`] of an older monitor.
    pub async fn hold_ports(&self, sockets: Vec<OwnedFd>) -> Result<(), LinkError> {
        self.call(HoldPorts { sockets }).await
    }

    /// Copies of all sockets that the monitor holds. An older monitor holds none.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn copy_ports(&self) -> Result<Vec<OwnedFd>, LinkError> {
        let mut sockets = Vec::new();
        loop {
            let without = u32::try_from(sockets.len()).unwrap_or(u32::MAX);
            let next = match self.call(CopyPorts { without }).await {
                Err(error) if is_unknown(&error) => return Ok(sockets),
                next => next?,
            };
            let is_last = next.sockets.is_empty();
            sockets.extend(next.sockets);
            if is_last || u32::try_from(sockets.len()).is_ok_and(|got| got >= next.all) {
                return Ok(sockets);
            }
        }
    }
}

fn is_unknown(error: &LinkError) -> bool {
    matches!(error.failure(), Some(Failure::UnknownOperation { .. }))
}
