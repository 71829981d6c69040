//! A socket that keeps other programs from using a host port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Protocol as NetProtocol, Shutdown, SocketFlags, SocketType, bind, getsockname, ipproto,
    listen, shutdown, socket_with, sockopt,
};

use crate::network::{PortMapping, Protocol};

/// Takes the port. None if the kernel lacks the protocol, so that no other program can take it.
pub(super) fn hold(port: &PortMapping) -> Result<Option<OwnedFd>, Errno> {
    let Some((socket, address)) = open(port)? else { return Ok(None) };
    match port.protocol {
        Protocol::Tcp => hold_tcp(&socket, &address)?,
        Protocol::Udp => {
            bind(&socket, &address)?;
            // Nothing reads packets that come before the packet rules are in place.
            sockopt::set_socket_recv_buffer_size(&socket, 0)?;
        }
        Protocol::Sctp => bind(&socket, &address)?,
    }
    Ok(Some(socket))
}

/// With REUSEADDR, old connections do not conflict, but listeners still do. In the end it must be off, or
/// other sockets with it could use the port too; only a listen makes the kernel forget that it was on. A
/// client that connects before the pod serves must be refused, not left waiting: so the socket does not
/// listen in the end.
fn hold_tcp(socket: &OwnedFd, address: &SocketAddr) -> Result<(), Errno> {
    sockopt::set_socket_reuseaddr(socket, true)?;
    bind(socket, address)?;
    listen(socket, 1)?;
    shutdown(socket, Shutdown::Read)?;
    sockopt::set_socket_reuseaddr(socket, false)
}

fn open(port: &PortMapping) -> Result<Option<(OwnedFd, SocketAddr)>, Errno> {
    let of = |family| socket_with(family, kind(port.protocol), SocketFlags::CLOEXEC, protocol(port.protocol));
    let opened = match port.host_ip {
        Some(ip) => {
            of(if ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }).map(|s| (s, ip))
        }
        // One socket has the port on the addresses of both families.
        None => match of(AddressFamily::INET6) {
            Err(Errno::AFNOSUPPORT) => of(AddressFamily::INET).map(|s| (s, Ipv4Addr::UNSPECIFIED.into())),
            opened => opened.map(|s| (s, Ipv6Addr::UNSPECIFIED.into())),
        },
    };
    let (socket, ip) = match opened {
        Err(Errno::PROTONOSUPPORT | Errno::SOCKTNOSUPPORT) => return Ok(None),
        opened => opened?,
    };
    // An address that the host does not have may come later, for example a floating one.
    match ip {
        IpAddr::V4(_) => sockopt::set_ip_freebind(&socket, true)?,
        IpAddr::V6(_) => {
            sockopt::set_ipv6_v6only(&socket, port.host_ip.is_some())?;
            sockopt::set_ipv6_freebind(&socket, true)?;
        }
    }
    Ok(Some((socket, SocketAddr::new(ip, port.host_port))))
}

/// Whether a socket of [`hold`] has that port.
pub(super) fn has(socket: &OwnedFd, port: &PortMapping) -> bool {
    let Ok(address) = getsockname(socket).and_then(SocketAddr::try_from) else { return false };
    let same_address = port.host_ip.map_or(address.ip().is_unspecified(), |ip| address.ip() == ip);
    let protocol = sockopt::socket_protocol(socket).ok().flatten().map(|protocol| protocol.as_raw().get());
    same_address && address.port() == port.host_port && protocol == Some(u32::from(port.protocol.number()))
}

fn kind(protocol: Protocol) -> SocketType {
    match protocol {
        Protocol::Udp => SocketType::DGRAM,
        Protocol::Tcp | Protocol::Sctp => SocketType::STREAM,
    }
}

fn protocol(protocol: Protocol) -> Option<NetProtocol> {
    (protocol == Protocol::Sctp).then_some(ipproto::SCTP)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    fn mapping(protocol: Protocol, host_port: u16, host_ip: Option<&str>) -> PortMapping {
        let host_ip = host_ip.map(|ip| ip.parse().unwrap());
        PortMapping { protocol, container_port: 80, host_port, host_ip }
    }

    fn free_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    fn in_use<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    }

    #[test]
    fn a_port_that_is_held_is_given_to_no_other_and_clients_are_refused() {
        let port = free_port();
        let held = hold(&mapping(Protocol::Tcp, port, None)).unwrap();
        // The listeners of the standard library set REUSEADDR.
        for address in ["127.0.0.1", "0.0.0.0", "::1", "::"] {
            let address = SocketAddr::new(address.parse().unwrap(), port);
            assert!(in_use(TcpListener::bind(address)), "{address}");
        }
        assert_eq!(hold(&mapping(Protocol::Tcp, port, Some("127.0.0.9"))).unwrap_err(), Errno::ADDRINUSE);
        let refused = TcpStream::connect(("127.0.0.1", port)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        drop(held);
        TcpListener::bind(("127.0.0.1", port)).unwrap();
    }

    #[test]
    fn one_address_leaves_the_others_free() {
        let port = free_port();
        let _held = hold(&mapping(Protocol::Tcp, port, Some("127.0.0.1"))).unwrap();
        assert!(in_use(TcpListener::bind(("127.0.0.1", port))));
        TcpListener::bind(("127.0.0.2", port)).unwrap();
        // An address that the host does not have.
        assert!(hold(&mapping(Protocol::Tcp, port, Some("192.0.2.77"))).unwrap().is_some());
        let _held = hold(&mapping(Protocol::Tcp, port, Some("::"))).unwrap();
        TcpListener::bind(("127.0.0.3", port)).unwrap();
    }

    #[test]
    fn connections_of_the_past_do_not_keep_a_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        drop(listener.accept().unwrap());
        drop((listener, client));
        hold(&mapping(Protocol::Tcp, port, None)).unwrap();
    }

    #[test]
    fn udp_is_held_as_well() {
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let _held = hold(&mapping(Protocol::Udp, port, None)).unwrap();
        assert!(in_use(UdpSocket::bind(("127.0.0.1", port))));
        TcpListener::bind(("127.0.0.1", port)).unwrap();
    }

    #[test]
    fn a_socket_has_its_own_port_and_no_other() {
        let (port, other) = (free_port(), free_port());
        for (protocol, host_ip) in [
            (Protocol::Tcp, None),
            (Protocol::Udp, None),
            (Protocol::Tcp, Some("127.0.0.1")),
            (Protocol::Udp, Some("::1")),
        ] {
            let mapping = |number, host_ip| mapping(protocol, number, host_ip);
            let socket = hold(&mapping(port, host_ip)).unwrap().unwrap();
            assert!(has(&socket, &mapping(port, host_ip)), "{protocol} {host_ip:?}");
            assert!(!has(&socket, &mapping(other, host_ip)));
            assert!(!has(&socket, &mapping(port, Some("127.0.0.9"))));
            let protocol = if protocol == Protocol::Tcp { Protocol::Udp } else { Protocol::Tcp };
            assert!(!has(&socket, &PortMapping { protocol, ..mapping(port, host_ip) }));
        }
    }
}
