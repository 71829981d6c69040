//! Settings of the kernel: packets of pods only pass the host if it forwards, and no pod may be its router.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::thread::ScopedJoinHandle;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::network::NetworkError;
use crate::network::error::file;
use crate::network::netlink::Link;

const IPV4: &str = "/proc/sys/net/ipv4/ip_forward";
const IPV6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";
const IPV6_INTERFACES: &str = "/proc/sys/net/ipv6/conf";

/// Flag of a route that a router advertised: `RTF_ADDRCONF` of linux/ipv6_route.h.
const ADVERTISED: u32 = 0x0004_0000;

/// Turns forwarding on, where it is off.
pub(super) fn enable(ipv6: bool, links: impl FnOnce() -> Vec<Link>) -> Result<(), NetworkError> {
    set(IPV4, "1")?;
    if ipv6 && !is(IPV6, "1") {
        keep_router_advertisements(&links());
        set(IPV6, "1")?;
    }
    Ok(())
}

/// A host that forwards ignores router advertisements unless the setting is 2: it would lose its own address
/// and default route some minutes later. Interfaces made later, of pods above all, keep the kernel's default.
fn keep_router_advertisements(links: &[Link]) {
    let routes = fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    for interface in with_routers(links, &routes) {
        let setting = PathBuf::from(format!("{IPV6_INTERFACES}/{interface}/accept_ra"));
        if is(&setting, "1")
            && let Err(error) = fs::write(&setting, "2")
        {
            let setting = setting.display();
            tracing::warn!(%setting, %error, "cannot keep the host's IPv6 routes from routers; set it to 2");
        }
    }
}

/// The interfaces on which the host itself may have a router: its hardware, bridges and bonds over that, VLANs, and
/// those with a route from a router. A router may not have said anything yet. `routes` is the text of /proc/net/ipv6_route: the flags are the last column but one, the last is the name.
fn with_routers<'a>(links: &'a [Link], routes: &'a str) -> BTreeSet<&'a str> {
    let advertised = routes.lines().filter_map(|line| {
        let mut columns = line.split_whitespace().rev();
        let (name, flags) = (columns.next()?, u32::from_str_radix(columns.next()?, 16).ok()?);
        (flags & ADVERTISED != 0).then_some(name)
    });
    let mut own: BTreeSet<u32> =
        links.iter().filter(|link| matches!(&*link.kind, "" | "vlan")).map(|link| link.index).collect();
    // A bond of hardware may be a port of a bridge.
    for _ in 0..2 {
        let masters: Vec<u32> =
            links.iter().filter(|link| own.contains(&link.index)).map(|link| link.master).collect();
        own.extend(masters);
    }
    let own = links.iter().filter(|link| own.contains(&link.index)).map(|link| link.name.as_str());
    own.chain(advertised).collect()
}

/// No router is behind the interface: a pod that claims to be one would get the packets of the host.
pub(super) fn ignore_routers(interface: &str) -> Result<(), NetworkError> {
    set_where_it_exists(format!("{IPV6_INTERFACES}/{interface}/accept_ra"), "0")
}

/// Where pods have no IPv6, no packet rule filters it: the host takes no IPv6 packet from the interface.
pub(super) fn set_ipv6(interface: &str, is_on: bool) -> Result<(), NetworkError> {
    set_where_it_exists(format!("{IPV6_INTERFACES}/{interface}/disable_ipv6"), if is_on { "0" } else { "1" })
}

/// Like [`ignore_routers`], for an interface in a pod: its network was perhaps made without our settings.
pub(super) fn ignore_routers_in(netns: BorrowedFd<'_>, interface: &str) -> Result<(), NetworkError> {
    // A separate thread: a thread that has entered a pod's network must do nothing else.
    let set = || {
        let entered = move_into_link_name_space(netns, Some(LinkNameSpaceType::Network));
        entered.map_err(|errno| file("enter", Path::new("the pod's network"))(errno.into()))?;
        ignore_routers(interface)
    };
    let result = std::thread::scope(|scope| {
        std::thread::Builder::new().spawn_scoped(scope, set).map(ScopedJoinHandle::join)
    });
    let result = result.map_err(file("enter", Path::new("the pod's network")))?;
    result.unwrap_or(Err(NetworkError::Interrupted("setting up the interface")))
}

/// Whether the kernel has IPv6.
pub(super) fn has_ipv6() -> bool {
    Path::new(IPV6_INTERFACES).exists()
}

/// A kernel without IPv6 has no such settings, and an interface that is gone none any more.
fn set_where_it_exists(path: String, value: &str) -> Result<(), NetworkError> {
    let result = set(&path, value);
    if result.is_err() && !Path::new(&path).exists() { Ok(()) } else { result }
}

fn is(path: impl AsRef<Path>, value: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|now| now.trim() == value)
}

/// Writes a setting of the kernel.
pub(super) fn set(path: &str, value: &str) -> Result<(), NetworkError> {
    // Read first, so that a correct setting needs no write: /proc/sys may be read-only.
    if is(path, value) {
        return Ok(());
    }
    fs::write(path, value).map_err(file("write", Path::new(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, kind: &str, master: u32) -> Link {
        let (name, kind) = (name.to_owned(), kind.to_owned());
        let (alias, counters) = (String::new(), Default::default());
        Link { index, name, kind, alias, mtu: 1500, mac: None, master, operational: true, counters }
    }

    #[test]
    fn what_lies_over_hardware_may_have_a_router_that_has_said_nothing_yet() {
        let links = [
            link(1, "eth0", "", 3),
            link(2, "eth1", "", 0),
            link(3, "bond0", "bond", 4),
            link(4, "br0", "bridge", 0),
            link(5, "eth1.7", "vlan", 0),
            link(6, "docker0", "bridge", 0),
            link(7, "veth0", "veth", 6),
            link(8, "tun0", "tun", 0),
        ];
        let own = ["bond0", "br0", "eth0", "eth1", "eth1.7"];
        assert_eq!(with_routers(&links, ""), own.into());
        let route = "00000000 00 00000000 00 00000000 00000400 00000001 00000000 00040003 tun0\n";
        assert_eq!(with_routers(&links, route), own.into_iter().chain(["tun0"]).collect());
    }
}
