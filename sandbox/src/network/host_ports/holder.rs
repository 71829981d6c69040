//! Finds the process of the host that uses a port, only for an error message.
//!
//! Source: sock_diag(7).

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use crate::network::netlink::{Protocol as Netlink, Socket};
use crate::network::{PortMapping, Protocol};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const FAMILIES: [u8; 2] = [2, 10];
const TCP_LISTEN: u8 = 10;
/// `struct inet_diag_req_v2`.
const REQUEST: usize = 56;

/// A socket with the port.
#[derive(Debug)]
struct Found {
    listens: bool,
    address: IpAddr,
    inode: u32,
}

/// The process that uses the port, with its address, for people.
pub(super) fn find(port: &PortMapping) -> String {
    let mut sockets: Vec<Found> = FAMILIES.iter().flat_map(|family| sockets(*family, port)).collect();
    sockets.retain(|found| same(found.address, port.host_ip));
    sockets.sort_by_key(|found| !found.listens);
    let Some(found) = sockets.first() else { return "a process on this host".to_owned() };
    let process = process(found.inode).unwrap_or_else(|| "a process on this host".to_owned());
    format!("{process} on {}", found.address)
}

/// Whether a socket on `address` prevents others from using `wanted`.
fn same(address: IpAddr, wanted: Option<IpAddr>) -> bool {
    let Some(wanted) = wanted else { return true };
    let any = address.is_unspecified() || wanted.is_unspecified();
    // A socket on [::] usually also uses the port on IPv4 addresses.
    address == wanted || (any && (address.is_ipv6() || wanted.is_ipv4()))
}

fn sockets(family: u8, port: &PortMapping) -> Vec<Found> {
    let mut request = [0; REQUEST];
    request[0] = family;
    request[1] = port.protocol.number();
    // In any state, including sockets that are bound and neither listening nor connected.
    request[4..8].fill(0xff);
    request[8..10].copy_from_slice(&port.host_port.to_be_bytes());
    let list = |mut socket: Socket| {
        socket.list(
            |m| {
                m.dump("list sockets", SOCK_DIAG_BY_FAMILY, &request);
            },
            |_, payload| parse(payload, port),
        )
    };
    // A kernel without it leaves the holder without a name.
    Socket::open(Netlink::SocketDiagnosis).and_then(list).unwrap_or_default()
}

/// `struct inet_diag_msg`.
fn parse(payload: &[u8], port: &PortMapping) -> Option<Found> {
    let local_port = u16::from_be_bytes(payload.get(4..6)?.try_into().ok()?);
    let address = match *payload.first()? {
        2 => Ipv4Addr::from(<[u8; 4]>::try_from(payload.get(8..12)?).ok()?).into(),
        _ => Ipv6Addr::from(<[u8; 16]>::try_from(payload.get(8..24)?).ok()?).to_canonical(),
    };
    let inode = u32::from_ne_bytes(payload.get(68..72)?.try_into().ok()?);
    let listens = port.protocol != Protocol::Tcp || payload[1] == TCP_LISTEN;
    (local_port == port.host_port).then_some(Found { listens, address, inode })
}

fn process(inode: u32) -> Option<String> {
    let wanted = PathBuf::from(format!("socket:[{inode}]"));
    let has = |folder: &PathBuf| {
        let open = fs::read_dir(format!("{}/fd", folder.display())).into_iter().flatten().flatten();
        open.map(|entry| entry.path()).any(|file| fs::read_link(file).is_ok_and(|target| target == wanted))
    };
    let all = fs::read_dir("/proc").ok()?.flatten();
    let is_process = |name: &str| name.bytes().all(|b| b.is_ascii_digit());
    let mut all =
        all.filter(|entry| is_process(&entry.file_name().to_string_lossy())).map(|entry| entry.path());
    let folder = all.find(has)?;
    let pid = folder.file_name()?.to_string_lossy().into_owned();
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("process {} (pid {pid})", name.trim()))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;
    use crate::network::host_ports::socket;

    fn mapping(protocol: Protocol, host_port: u16) -> PortMapping {
        PortMapping { protocol, container_port: 80, host_port, host_ip: None }
    }

    #[test]
    fn the_process_and_its_address_are_named() {
        let me = format!("(pid {}) on 127.0.0.1", std::process::id());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(find(&mapping(Protocol::Tcp, port)).ends_with(&me));
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = udp.local_addr().unwrap().port();
        assert!(find(&mapping(Protocol::Udp, port)).ends_with(&me));
        drop(udp);
        assert_eq!(find(&mapping(Protocol::Udp, port)), "a process on this host");
    }

    #[test]
    fn a_port_that_another_server_holds_is_found_too() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = mapping(Protocol::Tcp, listener.local_addr().unwrap().port());
        drop(listener);
        let _held = socket::hold(&port).unwrap();
        let holder = find(&port);
        // Kernels before 6.8 do not list it.
        let expected = [format!("(pid {}) on ::", std::process::id()), "a process on this host".to_owned()];
        assert!(expected.iter().any(|end| holder.ends_with(end)), "{holder}");
    }

    #[test]
    fn sockets_on_other_addresses_do_not_count() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (address, wanted, counts) in [
            ("127.0.0.1", None, true),
            ("127.0.0.1", Some("127.0.0.1"), true),
            ("127.0.0.1", Some("127.0.0.2"), false),
            ("0.0.0.0", Some("127.0.0.2"), true),
            ("127.0.0.1", Some("0.0.0.0"), true),
            ("::", Some("127.0.0.1"), true),
            ("::1", Some("::"), true),
            ("127.0.0.1", Some("::"), false),
        ] {
            assert_eq!(same(ip(address), wanted.map(ip)), counts, "{address} {wanted:?}");
        }
    }
}
