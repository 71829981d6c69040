//! The sockets that a pod's monitor keeps, and those that a restarted server gets back from it.

use std::os::fd::OwnedFd;
use std::sync::PoisonError;

use crisp_executor::ids::PodId;
use rustix::io::Errno;

use super::{Held, HeldPorts, HostPorts, refused_by_kernel, socket};
use crate::network::{NetworkError, PortMapping};

/// Limit for [`HostPorts::copies`]: they have room in a message to the monitor, beside the other descriptors of a pod.
const AT_ONCE: usize = 200;

impl HostPorts {
    /// Copies of the pod's sockets for its monitor, without the first ones; perhaps not all that follow.
    pub(in crate::network) fn copies(
        &self,
        pod: &PodId,
        without: usize,
    ) -> Result<Vec<OwnedFd>, NetworkError> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Held { ports, sockets, .. }) = held.get(pod) else { return Ok(Vec::new()) };
        let copies = sockets.iter().skip(without).take(AT_ONCE).map(OwnedFd::try_clone);
        copies.collect::<Result<_, _>>().map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            ports
                .first()
                .map_or(NetworkError::Interrupted("copy host ports"), |port| refused_by_kernel(port, errno))
        })
    }

    /// Takes the ports of an existing pod, from its record. Those that are in use are [missing](Self::lacks) until
    /// [`Self::complete`].
    pub(in crate::network) fn restore(&self, HeldPorts { pod, name, ports }: HeldPorts) {
        if ports.is_empty() {
            return;
        }
        let (mut sockets, mut missing) = (Vec::new(), Vec::new());
        for port in &ports {
            match socket::hold(port) {
                Ok(socket) => sockets.extend(socket),
                Err(_) => missing.push(port.clone()),
            }
        }
        let held = Held { name, ports, missing, sockets };
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(pod, held);
    }

    /// Whether the monitor of the pod is to be asked for its sockets.
    pub(in crate::network) fn lacks(&self, pod: &PodId) -> bool {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(pod).is_some_and(|held| !held.missing.is_empty())
    }

    /// Completes the ports of a pod of an earlier server with the sockets of its monitor: none if it has ended, or is
    /// of an earlier release. A port that is not among them is opened, or another program has it.
    pub(in crate::network) fn complete(&self, pod: &PodId, kept: Vec<OwnedFd>) {
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(held) = all.get_mut(pod) else { return };
        let mut refused = Vec::new();
        for port in std::mem::take(&mut held.missing) {
            if kept.iter().any(|socket| socket::has(socket, &port)) {
                continue;
            }
            match socket::hold(&port) {
                Ok(socket) => held.sockets.extend(socket),
                Err(errno) => refused.push((port, errno)),
            }
        }
        held.sockets.extend(kept);
        let name = held.name.clone();
        // The holder is searched without the lock: that reads all of /proc.
        drop(all);
        warn(pod, &name, &refused);
    }
}

fn warn(pod: &PodId, name: &str, refused: &[(PortMapping, Errno)]) {
    for (port, errno) in refused {
        let error = refused_by_kernel(port, *errno);
        tracing::warn!(pod = pod.short(), name, %error, "a published port is not held any more: another program may use it, but what is sent there goes to the pod while that runs");
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, UdpSocket};

    use super::super::tests::{free_port, tcp};
    use super::*;
    use crate::network::Protocol;

    fn is_free(port: &PortMapping) -> bool {
        let address = SocketAddr::new(port.host_ip.unwrap_or([127, 0, 0, 1].into()), port.host_port);
        match port.protocol {
            Protocol::Tcp => TcpListener::bind(address).is_ok(),
            Protocol::Udp => UdpSocket::bind(address).is_ok(),
            Protocol::Sctp => unreachable!("it is in no test here"),
        }
    }

    #[test]
    fn a_restarted_server_takes_over_what_the_monitor_kept() {
        let pod = PodId::random();
        let udp = PortMapping { protocol: Protocol::Udp, ..tcp(free_port(), None) };
        let ports = [tcp(free_port(), None), tcp(free_port(), Some("127.0.0.1")), udp];
        let before = HostPorts::default();
        before.reserve(&pod, "a", &ports, |_| None).unwrap();
        assert!(!before.lacks(&pod));
        let monitor = before.copies(&pod, 0).unwrap();
        assert_eq!((monitor.len(), before.copies(&pod, 2).unwrap().len()), (3, 1));
        assert!(before.copies(&PodId::random(), 0).unwrap().is_empty());
        drop(before);
        assert!(!ports.iter().any(is_free));
        let after = HostPorts::default();
        after.restore(HeldPorts::new(&pod, "default", "web", &ports));
        assert!(after.lacks(&pod));
        after.complete(&pod, monitor.iter().map(|socket| socket.try_clone().unwrap()).collect());
        assert!(!after.lacks(&pod));
        drop(monitor);
        assert!(!ports.iter().any(is_free));
        after.release(&pod);
        assert!(ports.iter().all(is_free));
        // A stop was faster.
        after.complete(&pod, vec![]);
        assert!(ports.iter().all(is_free));
    }

    #[test]
    fn what_ended_with_the_monitor_is_held_again_and_what_a_program_took_is_not() {
        let (all, pod) = (HostPorts::default(), PodId::random());
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let ports = [tcp(free_port(), None), tcp(taken.local_addr().unwrap().port(), None)];
        let monitor = socket::hold(&ports[0]).unwrap().unwrap();
        all.restore(HeldPorts::new(&pod, "default", "web", &ports));
        assert!(all.lacks(&pod));
        drop(monitor);
        assert!(is_free(&ports[0]));
        all.complete(&pod, vec![]);
        assert!(!is_free(&ports[0]) && !all.lacks(&pod));
        drop(taken);
        assert!(is_free(&ports[1]));
    }

    #[test]
    fn more_ports_than_one_message_has_room_for_are_copied_in_parts() {
        let (all, pod) = (HostPorts::default(), PodId::random());
        // Any descriptors: so many free ports are not found beside other tests.
        let sockets = (0..=AT_ONCE).map(|_| std::fs::File::open("/dev/null").unwrap().into()).collect();
        let held = Held { name: "a".to_owned(), ports: vec![tcp(1, None)], missing: vec![], sockets };
        all.held.lock().unwrap().insert(pod.clone(), held);
        let parts = [0, AT_ONCE, AT_ONCE + 1].map(|without| all.copies(&pod, without).unwrap().len());
        assert_eq!(parts, [AT_ONCE, 1, 0]);
    }
}
