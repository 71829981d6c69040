//! The host's resolver settings, see resolv.conf(5).

use std::fs;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::Path;

use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::config::Dns;

pub(crate) const HOST: &str = "/etc/resolv.conf";
/// The upstream servers of the stub of systemd-resolved(8) at 127.0.0.53.
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";

/// The host's settings, as processes on its own network use them.
#[must_use]
pub fn host_dns() -> Dns {
    read(Path::new(HOST))
}

/// The host's settings with only the servers that a pod in its own network can reach.
#[must_use]
pub fn host_dns_of_pods() -> Dns {
    for_pods(Path::new(HOST), Path::new(BEHIND_STUB))
}

/// If all servers are out of reach, those behind the stub of systemd-resolved replace them, as with Docker and
/// kubeadm's kubelet.
fn for_pods(host: &Path, behind_stub: &Path) -> Dns {
    let own = read(host);
    let has_servers = !own.servers.is_empty();
    let own = reachable(own);
    if !has_servers || !own.servers.is_empty() {
        return own;
    }
    Some(reachable(read(behind_stub))).filter(|behind| !behind.servers.is_empty()).unwrap_or(own)
}

fn reachable(mut dns: Dns) -> Dns {
    dns.servers.retain(|server| is_reachable(server));
    dns
}

/// Neither the host's loopback nor the links of its interfaces lead out of a pod.
fn is_reachable(server: &str) -> bool {
    let address = server.split('%').next().unwrap_or_default();
    address.parse().is_ok_and(|address: IpAddr| match address {
        IpAddr::V4(address) => !address.is_loopback(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    })
}

/// A host without the file has no settings.
fn read(path: &Path) -> Dns {
    fs::read_to_string(path).map(|text| parse(&text)).unwrap_or_default()
}

/// The last search line counts, servers and options accumulate.
fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.servers.extend(words.next().map(str::to_owned)),
            Some("search" | "domain") => dns.searches = words.map(str::to_owned).collect(),
            Some("options") => dns.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    dns
}

/// Where the host reaches a server: an address, link-local ones with the name or number of an interface
/// (`fe80::1%eth0`).
pub(crate) fn socket_address(server: &str, port: u16) -> Option<SocketAddr> {
    match server.split_once('%') {
        None => Some(SocketAddr::new(server.parse().ok()?, port)),
        Some((address, interface)) => {
            let index = interface.parse().ok().or_else(|| index_of(interface))?;
            Some(SocketAddrV6::new(address.parse().ok()?, port, 0, index).into())
        }
    }
}

fn index_of(interface: &str) -> Option<u32> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
    name_to_index(socket, interface).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_settings_are_read() {
        let dns =
            parse("# x\nnameserver 10.0.0.1\nnameserver ::1\nsearch a\nsearch b c\noptions ndots:5 rotate\n");
        assert_eq!(dns.servers, ["10.0.0.1", "::1"]);
        assert_eq!(dns.searches, ["b", "c"]);
        assert_eq!(dns.options, ["ndots:5", "rotate"]);
    }

    #[test]
    fn pods_get_the_servers_behind_a_stub_and_none_that_they_cannot_reach() {
        let folder = tempfile::tempdir().unwrap();
        let (host, behind) = (folder.path().join("host"), folder.path().join("behind"));
        let servers =
            |servers: &[&str]| servers.iter().map(|s| format!("nameserver {s}\n")).collect::<String>();
        let none: [&str; 0] = [];
        for stub in ["127.0.0.53", "127.0.0.1", "::1", "fe80::1%eth0"] {
            fs::write(&host, servers(&[stub]) + "search lan\n").unwrap();
            fs::write(&behind, servers(&["fe80::1%eth0", "192.0.2.1"]) + "search behind\n").unwrap();
            let found = for_pods(&host, &behind);
            assert_eq!(
                (&found.servers[..], &found.searches[..]),
                (&["192.0.2.1".into()][..], &["behind".into()][..])
            );
            fs::write(&behind, servers(&["127.0.0.1"])).unwrap();
            let found = for_pods(&host, &behind);
            assert_eq!(found.servers, none, "{stub}");
            assert_eq!(found.searches, ["lan"], "{stub}");
            fs::remove_file(&behind).unwrap();
            assert_eq!(for_pods(&host, &behind).servers, none, "{stub}");
        }
        fs::write(&behind, servers(&["192.0.2.1"])).unwrap();
        fs::write(&host, servers(&["127.0.0.1", "192.0.2.7", "2001:db8::7"])).unwrap();
        assert_eq!(for_pods(&host, &behind).servers, ["192.0.2.7", "2001:db8::7"]);
        fs::write(&host, "search lan\n").unwrap();
        assert_eq!(for_pods(&host, &behind).servers, none, "no server is the host's own choice");
    }

    #[test]
    fn a_link_local_server_is_on_its_interface() {
        let address = |server| socket_address(server, 53).map(|address| address.to_string());
        assert_eq!(address("192.0.2.1").unwrap(), "192.0.2.1:53");
        assert_eq!(address("fe80::1%lo").unwrap(), "[fe80::1%1]:53");
        assert_eq!(address("fe80::1%7").unwrap(), "[fe80::1%7]:53");
        assert_eq!(address("fe80::1%no-such-link"), None);
        assert_eq!(address("nowhere"), None);
    }
}
