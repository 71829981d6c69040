//! Which pod holds which port of the host. Whatever publishes them, two pods never hold the same one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use crisp_executor::id::PodId;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use super::{NetworkError, PortMapping, Protocol};

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Reservations of all pods, built-in network and CNI alike.
#[derive(Debug, Default)]
pub(super) struct HostPorts {
    held: Mutex<HashMap<PodId, Vec<PortMapping>>>,
}

/// The mappings that publish something, with one way of saying "every address"; or the one that cannot, and
/// why.
pub(crate) fn published(mappings: &[PortMapping]) -> Result<Vec<PortMapping>, (&PortMapping, &'static str)> {
    let mut ports: Vec<PortMapping> = Vec::new();
    for asked in mappings.iter().filter(|m| m.host_port != 0) {
        let host_ip = asked.host_ip.filter(|ip| !ip.is_unspecified());
        let mapping = PortMapping { host_ip, ..asked.clone() };
        if mapping.container_port == 0 {
            return Err((asked, "the container port is missing"));
        }
        if ports.contains(&mapping) {
            continue;
        }
        if ports.iter().any(|p| clash(p, &mapping)) {
            return Err((asked, "the pod publishes it twice"));
        }
        ports.push(mapping);
    }
    Ok(ports)
}

pub(super) fn refused(port: &PortMapping, why: &str) -> NetworkError {
    NetworkError::PortRefused { port: port.host_port, protocol: port.protocol, why: why.to_owned() }
}

fn clash(a: &PortMapping, b: &PortMapping) -> bool {
    let address = a.host_ip.is_none() || b.host_ip.is_none() || a.host_ip == b.host_ip;
    address && a.protocol == b.protocol && a.host_port == b.host_port
}

impl HostPorts {
    /// Takes the ports for the pod, all or none, if no other pod and no listener has one.
    pub(super) fn reserve(&self, pod: &PodId, ports: &[PortMapping]) -> Result<(), NetworkError> {
        if ports.is_empty() {
            return Ok(());
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for port in ports {
            let holder =
                held.iter().find(|(other, theirs)| *other != pod && theirs.iter().any(|p| clash(p, port)));
            if let Some((other, _)) = holder {
                return Err(in_use(port, format!("pod {}", other.short())));
            }
            if listened_on(port) {
                return Err(in_use(port, "a process on this host".to_owned()));
            }
        }
        held.insert(pod.clone(), ports.to_vec());
        Ok(())
    }

    /// Notes what a pod already has, from its record.
    pub(super) fn restore(&self, pod: &PodId, ports: &[PortMapping]) {
        if !ports.is_empty() {
            self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(pod.clone(), ports.to_vec());
        }
    }

    /// Gives the pod's ports back.
    pub(super) fn release(&self, pod: &PodId) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(pod);
    }
}

fn in_use(port: &PortMapping, holder: String) -> NetworkError {
    let host_ip = port.host_ip.unwrap_or(ANY);
    NetworkError::PortInUse { port: port.host_port, protocol: port.protocol, host_ip, holder }
}

/// Whether a process of the host has the port. Only "address in use" counts: an address that the host
/// does not have may come later, as a floating one does.
fn listened_on(port: &PortMapping) -> bool {
    let address = SocketAddr::new(port.host_ip.unwrap_or(ANY), port.host_port);
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = match port.protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
        // Opening an SCTP socket loads a kernel module; the pod's own check must do.
        Protocol::Sctp => return false,
    };
    let tried = (|| {
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        // With it, connections of the past do not count, listeners still do.
        sockopt::set_socket_reuseaddr(&socket, kind == SocketType::STREAM)?;
        bind(&socket, &address)
    })();
    tried == Err(Errno::ADDRINUSE)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn tcp(host_port: u16, host_ip: Option<&str>) -> PortMapping {
        let host_ip = host_ip.map(|ip| ip.parse().unwrap());
        PortMapping { protocol: Protocol::Tcp, container_port: 80, host_port, host_ip }
    }

    #[test]
    fn only_published_ports_remain() {
        let ports = published(&[tcp(0, None), tcp(8080, Some("0.0.0.0")), tcp(8080, None)]).unwrap();
        assert_eq!(ports, [tcp(8080, None)]);
        let twice = [tcp(80, None), PortMapping { container_port: 81, ..tcp(80, Some("127.0.0.1")) }];
        assert!(matches!(published(&twice), Err((_, "the pod publishes it twice"))));
        assert!(published(&[PortMapping { container_port: 0, ..tcp(80, None) }]).is_err());
    }

    #[test]
    fn another_pods_port_is_refused_by_name_until_released() {
        let (ports, a, b) = (HostPorts::default(), PodId::random(), PodId::random());
        ports.restore(&a, &[tcp(18080, None)]);
        let error = ports.reserve(&b, &[tcp(18080, Some("127.0.0.1"))]).unwrap_err().to_string();
        let expected = format!("host port 18080/tcp on 127.0.0.1 is already in use by pod {}", a.short());
        assert_eq!(error, expected);
        let udp = PortMapping { protocol: Protocol::Udp, ..tcp(18080, None) };
        ports.reserve(&b, &[udp]).unwrap();
        ports.release(&a);
        ports.reserve(&b, &[tcp(18080, None)]).unwrap();
    }

    #[test]
    fn a_listener_of_the_host_is_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp(listener.local_addr().unwrap().port(), None);
        assert!(listened_on(&port));
        drop(listener);
        assert!(!listened_on(&port));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = PortMapping { protocol: Protocol::Udp, ..tcp(socket.local_addr().unwrap().port(), None) };
        assert!(listened_on(&port));
    }
}
