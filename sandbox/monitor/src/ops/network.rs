//! The descriptors of the pod's network, as often as somebody asks.

use crisp_monitor::wire::Failure;

use crate::monitor::{Answer, Monitor, Reply};

impl Monitor {
    pub(super) fn network(&self) -> Result<Answer, Failure> {
        Ok(Reply::new(&(), self.pod.network()?)?.into())
    }
}
