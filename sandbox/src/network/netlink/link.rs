//! Interfaces: bridge, look-up, deletion.

use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::counters::{InterfaceCounters, counters};
use super::message::{Messages, attributes, u32_at};
use super::socket::{NetlinkError, Socket};

pub(super) const RTM_NEWLINK: u16 = 16;
/// The kernel's work queue needs milliseconds, on a busy machine a second.
const UP_DEADLINE: Duration = Duration::from_secs(5);
const UP_POLL: Duration = Duration::from_micros(500);

const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
pub(super) const RTM_SETLINK: u16 = 19;
pub(super) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_EXCL: u16 = 0x200;

pub(super) const IFLA_ADDRESS: u16 = 1;
pub(super) const IFLA_IFNAME: u16 = 3;
pub(super) const IFLA_MTU: u16 = 4;
pub(super) const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IF_OPER_UP: u8 = 6;
pub(super) const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_STATS64: u16 = 23;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
pub(super) const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
/// `IFLA_BRPORT_MODE`.
const IFLA_BRPORT_HAIRPIN: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const AF_INET6: u16 = 10;
const IFF_UP: u32 = 1;
const IFINFOMSG: usize = 16;

/// An interface as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::network) struct Link {
    pub index: u32,
    pub name: String,
    /// `bridge`, `veth`, ...; empty for hardware.
    pub kind: String,
    pub alias: String,
    pub mtu: u32,
    pub mac: Option<[u8; 6]>,
    /// Index of the bridge that it is a port of; 0 without one.
    pub master: u32,
    /// Whether packets really pass. A carrier alone is not sufficient: see [`wait_until_up`].
    pub operational: bool,
    pub counters: InterfaceCounters,
}

/// `struct ifinfomsg`.
pub(super) fn ifinfomsg(index: u32, flags: u32, change: u32) -> [u8; IFINFOMSG] {
    let mut bytes = [0; IFINFOMSG];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

pub(super) const UP: (u32, u32) = (IFF_UP, IFF_UP);

/// Disables automatic IPv6 addresses on this interface: no duplicate address detection, no multicast.
/// Optional, because a kernel without IPv6 refuses it and does not need it.
pub(super) fn no_automatic_ipv6(messages: &mut Messages, name: &str) {
    messages
        .request("turn off automatic IPv6 addresses", RTM_SETLINK, 0, &ifinfomsg(0, 0, 0))
        .optional()
        .attr_str(IFLA_IFNAME, name)
        .nest(IFLA_AF_SPEC, |m| {
            m.nest(AF_INET6, |m| {
                m.attr(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
            });
        });
}

pub(super) fn up(messages: &mut Messages, step: &'static str, name: &str) {
    messages.request(step, RTM_SETLINK, 0, &ifinfomsg(0, UP.0, UP.1)).attr_str(IFLA_IFNAME, name);
}

/// A bridge to make.
#[derive(Debug, Clone, Copy)]
pub(in crate::network) struct BridgeLink<'a> {
    pub name: &'a str,
    /// Set at creation, so that it does not change with each port that is added or removed.
    pub mac: [u8; 6],
    /// Identifies the owner for a later server.
    pub alias: &'a str,
    /// Identifies it in packet rules, among others of its kind.
    pub group: u32,
}

/// Creates the bridge and sets it up.
pub(in crate::network) fn create_bridge(
    socket: &mut Socket,
    bridge: &BridgeLink<'_>,
) -> Result<(), NetlinkError> {
    let mut messages = Messages::new();
    messages
        .request("create bridge", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifinfomsg(0, 0, 0))
        .attr_str(IFLA_IFNAME, bridge.name)
        .attr(IFLA_ADDRESS, &bridge.mac)
        .attr_u32(IFLA_GROUP, bridge.group)
        .nest(IFLA_LINKINFO, |m| {
            m.attr_str(IFLA_INFO_KIND, "bridge");
        });
    messages
        .request("set the bridge's alias", RTM_SETLINK, 0, &ifinfomsg(0, 0, 0))
        .attr_str(IFLA_IFNAME, bridge.name)
        .attr_str(IFLA_IFALIAS, bridge.alias);
    no_automatic_ipv6(&mut messages, bridge.name);
    up(&mut messages, "set the bridge up", bridge.name);
    socket.run(messages)
}

/// Adds the message that puts an interface into a group.
pub(in crate::network) fn set_group(messages: &mut Messages, index: u32, group: u32) {
    let fixed = ifinfomsg(index, 0, 0);
    messages.request("set the bridge's group", RTM_SETLINK, 0, &fixed).attr_u32(IFLA_GROUP, group);
}

/// Makes the interfaces ports of the bridge again, with the same options; those that are gone are ignored.
pub(in crate::network) fn rejoin(
    socket: &mut Socket,
    names: &[&str],
    bridge_index: u32,
    isolated: bool,
) -> Result<(), NetlinkError> {
    let mut messages = Messages::new();
    for name in names {
        messages
            .request("join the bridge", RTM_SETLINK, 0, &ifinfomsg(0, 0, 0))
            .optional()
            .attr_str(IFLA_IFNAME, name)
            .attr_u32(IFLA_MASTER, bridge_index);
        let port = messages.request("set up the port", RTM_NEWLINK, 0, &ifinfomsg(0, 0, 0)).optional();
        port_flags(port.attr_str(IFLA_IFNAME, name), isolated);
    }
    socket.run(messages)
}

/// The options of a port of the bridge; a new port has neither.
pub(super) fn port_flags(message: &mut Messages, isolated: bool) {
    message.nest(IFLA_LINKINFO, |m| {
        m.attr_str(IFLA_INFO_SLAVE_KIND, "bridge").nest(IFLA_INFO_SLAVE_DATA, |m| {
            // If bridged packets pass the packet rules (br_netfilter), a packet that is redirected to the pod
            // of its source leaves by its input port.
            m.attr(IFLA_BRPORT_HAIRPIN, &[1]);
            if isolated {
                m.attr(IFLA_BRPORT_ISOLATED, &[1]);
            }
        });
    });
}

/// Deletes an interface; returns `false` when there is none with that name.
pub(in crate::network) fn delete_link(socket: &mut Socket, name: &str) -> Result<bool, NetlinkError> {
    let mut messages = Messages::new();
    messages.request("delete interface", RTM_DELLINK, 0, &ifinfomsg(0, 0, 0)).attr_str(IFLA_IFNAME, name);
    existed(socket.run(messages))
}

/// Disconnects an interface and puts it into `group`, to be deleted with others; returns `false` when there
/// is none. This is fast, while deleting waits for every packet in the kernel that refers to it.
pub(in crate::network) fn retire_link(
    socket: &mut Socket,
    name: &str,
    group: u32,
) -> Result<bool, NetlinkError> {
    let mut messages = Messages::new();
    messages
        .request("cut the interface off", RTM_SETLINK, 0, &ifinfomsg(0, 0, IFF_UP))
        .attr_str(IFLA_IFNAME, name)
        .attr_u32(IFLA_MASTER, 0)
        .attr_u32(IFLA_GROUP, group);
    existed(socket.run(messages))
}

/// Deletes all interfaces of a group together.
pub(in crate::network) fn delete_group(socket: &mut Socket, group: u32) -> Result<bool, NetlinkError> {
    let mut messages = Messages::new();
    messages.request("delete interfaces", RTM_DELLINK, 0, &ifinfomsg(0, 0, 0)).attr_u32(IFLA_GROUP, group);
    existed(socket.run(messages))
}

fn existed(answer: Result<(), NetlinkError>) -> Result<bool, NetlinkError> {
    match answer {
        Ok(()) => Ok(true),
        Err(NetlinkError::Refused { errno: Errno::NODEV, .. }) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The interface with that name, if there is one.
pub(in crate::network) fn link_by_name(
    socket: &mut Socket,
    name: &str,
) -> Result<Option<Link>, NetlinkError> {
    let mut messages = Messages::new();
    messages.request("look up interface", RTM_GETLINK, 0, &ifinfomsg(0, 0, 0)).attr_str(IFLA_IFNAME, name);
    find(socket, messages)
}

/// Waits until the interface passes packets.
///
/// The end of a pair that was up first learns of its partner from a work queue of the kernel. Until that has
/// run, its packets are dropped, and a program that lost its first packet waits between one and five seconds
/// before it sends another. Since Linux 6.8 a request for an interface does that work first, so this only
/// waits on older kernels.
#[expect(clippy::disallowed_methods, reason = "this runs on a thread of blocking work")]
pub(in crate::network) fn wait_until_up(socket: &mut Socket, name: &str) -> Result<(), NetlinkError> {
    let start = Instant::now();
    loop {
        let link = link_by_name(socket, name)?.ok_or(NetlinkError::Malformed("wait for interface"))?;
        if link.operational {
            return Ok(());
        }
        if start.elapsed() > UP_DEADLINE {
            return Err(NetlinkError::Refused { step: "wait for interface", errno: Errno::TIMEDOUT });
        }
        std::thread::sleep(UP_POLL);
    }
}

fn find(socket: &mut Socket, messages: Messages) -> Result<Option<Link>, NetlinkError> {
    let mut found = None;
    match socket.run_with(messages, |kind, payload| found = parse(kind, payload)) {
        Err(NetlinkError::Refused { errno: Errno::NODEV, .. }) => Ok(None),
        Err(e) => Err(e),
        Ok(()) => found.map(Some).ok_or(NetlinkError::Malformed("look up interface")),
    }
}

/// The interface with that index, if there is one.
pub(in crate::network) fn link_by_index(
    socket: &mut Socket,
    index: u32,
) -> Result<Option<Link>, NetlinkError> {
    let mut messages = Messages::new();
    messages.request("look up interface", RTM_GETLINK, 0, &ifinfomsg(index, 0, 0));
    find(socket, messages)
}

/// All interfaces of the socket's namespace.
pub(in crate::network) fn links(socket: &mut Socket) -> Result<Vec<Link>, NetlinkError> {
    socket.list(
        |m| {
            m.dump("list interfaces", RTM_GETLINK, &ifinfomsg(0, 0, 0));
        },
        parse,
    )
}

fn parse(kind: u16, payload: &[u8]) -> Option<Link> {
    if kind != RTM_NEWLINK {
        return None;
    }
    let mut link = Link {
        index: u32_at(payload, 4)?,
        name: String::new(),
        kind: String::new(),
        alias: String::new(),
        mtu: 0,
        mac: None,
        master: 0,
        operational: false,
        counters: InterfaceCounters::default(),
    };
    for (kind, value) in attributes(payload.get(IFINFOMSG..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_IFALIAS => link.alias = text(value),
            IFLA_OPERSTATE => link.operational = value == [IF_OPER_UP],
            IFLA_MTU => link.mtu = u32_at(value, 0)?,
            IFLA_ADDRESS => link.mac = value.try_into().ok(),
            IFLA_MASTER => link.master = u32_at(value, 0)?,
            IFLA_STATS64 => link.counters = counters(value)?,
            IFLA_LINKINFO => {
                link.kind = attributes(value)
                    .find(|(k, _)| *k == IFLA_INFO_KIND)
                    .map_or(String::new(), |(_, v)| text(v));
            }
            _ => {}
        }
    }
    Some(link)
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}
