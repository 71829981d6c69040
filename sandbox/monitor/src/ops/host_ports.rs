//! Sockets that keep the pod's host ports from other programs, also while no server runs.

use crisp_monitor::wire::Failure;
use crisp_monitor::wire::request::{CopyPorts, HoldPorts};
use crisp_monitor::wire::response::PortSockets;
use rustix::io::fcntl_dupfd_cloexec;

use super::system;
use crate::monitor::{Call, Monitor, Reply};

/// Limit for copies in one response: this process has them all until they are sent.
const AT_ONCE: usize = 64;

impl Monitor {
    /// Takes more sockets.
    pub(super) fn hold_ports(&mut self, call: Call) -> Result<Reply, Failure> {
        let HoldPorts { sockets } = call.read()?;
        self.pod.host_ports()?.extend(sockets);
        Ok(Reply::done())
    }

    /// Returns copies of the next sockets.
    pub(super) fn copy_ports(&mut self, call: Call) -> Result<Reply, Failure> {
        let CopyPorts { without } = call.read()?;
        let held = self.pod.host_ports()?;
        let wanted = held.iter().skip(usize::try_from(without).unwrap_or(usize::MAX)).take(AT_ONCE);
        let copies = wanted.map(|socket| fcntl_dupfd_cloexec(socket, 3)).collect::<Result<_, _>>();
        let sockets = copies.map_err(system("copy the sockets of host ports"))?;
        Reply::with(PortSockets { sockets, all: u32::try_from(held.len()).unwrap_or(u32::MAX) })
    }

    /// Closes them all.
    pub(super) fn release_ports(&mut self) {
        if let Ok(held) = self.pod.host_ports() {
            held.clear();
        }
    }
}
