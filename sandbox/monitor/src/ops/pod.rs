//! Operations on the pod: greeting, report, opening, network.

use crisp_executor::ids::ContainerId;
use crisp_monitor::wire::request::OpenPod;
use crisp_monitor::wire::response::{Greeting, PodOpened, PodReport};
use crisp_monitor::wire::{Failure, PROTOCOL};

use crate::container::Container;
use crate::monitor::{Call, Monitor, Reply};

/// Limit for ended containers in a report, the latest ones. A message holds some 1,500; the others have their
/// exit records.
const MOST_ENDED: usize = 1000;

impl Monitor {
    /// Returns the greeting.
    pub(super) fn hello(&self) -> Result<Reply, Failure> {
        Reply::with(Greeting {
            protocol: PROTOCOL,
            build: env!("CARGO_PKG_VERSION").to_owned(),
            pod: self.id.clone(),
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            opened: self.pod.is_open(),
        })
    }

    /// Lists all containers.
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

    /// Makes a fresh monitor a pod.
    pub(super) fn open_pod(&mut self, call: Call) -> Result<Reply, Failure> {
        let request: OpenPod = call.read()?;
        let network = request.network;
        self.pod.open(request)?;
        let network = if network { Some(self.pod.network()?) } else { None };
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        Reply::with(PodOpened { pid, init: self.pod.init_pid(), network })
    }

    /// Returns the descriptors of the pod's network.
    pub(super) fn network(&self) -> Result<Reply, Failure> {
        Reply::with(self.pod.network()?)
    }
}
