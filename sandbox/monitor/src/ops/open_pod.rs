//! A fresh monitor becomes a pod.

use crisp_monitor::wire::Failure;
use crisp_monitor::wire::request::OpenPod;
use crisp_monitor::wire::response::PodOpened;

use crate::monitor::{Call, Monitor, Reply};

impl Monitor {
    pub(super) fn open_pod(&mut self, call: Call) -> Result<Reply, Failure> {
        let request: OpenPod = call.read()?;
        let network = request.network;
        self.pod.open(request)?;
        let network = if network { Some(self.pod.network()?) } else { None };
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        Reply::with(PodOpened { pid, init: self.pod.init_pid(), network })
    }
}
