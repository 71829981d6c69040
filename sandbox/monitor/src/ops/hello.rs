//! Says who this monitor is.

use crisp_monitor::wire::response::Greeting;
use crisp_monitor::wire::{Failure, PROTOCOL};

use crate::monitor::{Monitor, Reply};

impl Monitor {
    pub(super) fn hello(&self) -> Result<Reply, Failure> {
        Reply::with(Greeting {
            protocol: PROTOCOL,
            build: env!("CARGO_PKG_VERSION").to_owned(),
            pod: self.id.clone(),
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            opened: self.pod.is_open(),
        })
    }
}
