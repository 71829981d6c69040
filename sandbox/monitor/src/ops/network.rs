//! Gives out the descriptors of the pod's network.

use crisp_monitor::wire::Failure;

use crate::monitor::{Monitor, Reply};

impl Monitor {
    pub(super) fn network(&self) -> Result<Reply, Failure> {
        Reply::with(self.pod.network()?)
    }
}
