//! A fresh monitor becomes a pod.

use crisp_monitor::wire::response::PodOpened;
use crisp_monitor::wire::{Failure, request};

use crate::monitor::{Answer, Call, Monitor, Reply};
use crate::pod::Given;

impl Monitor {
    pub(super) fn open_pod(&mut self, call: Call) -> Result<Answer, Failure> {
        let (request, mut fds): (request::OpenPod, _) = call.take()?;
        let exits = fds.next("the folder for exits")?;
        let cgroup_v2 = fds.next_if(request.cgroup_v2, "the v2 cgroup")?;
        let mut cgroup_v1 = Vec::new();
        for _ in 0..request.cgroup_v1 {
            cgroup_v1.push(fds.next("a v1 cgroup")?);
        }
        self.pod.open(&request, Given { exits, cgroup_v2, cgroup_v1 })?;
        let network = if request.network { self.pod.network()? } else { Vec::new() };
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        Ok(Reply::new(&PodOpened { pid, init: self.pod.init_pid() }, network)?.into())
    }
}
