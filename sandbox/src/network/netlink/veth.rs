//! The pair of interfaces that joins a pod to the bridge.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::link::{
    IFLA_ADDRESS, IFLA_IFNAME, IFLA_INFO_KIND, IFLA_LINKINFO, IFLA_MASTER, IFLA_MTU, NLM_F_CREATE,
    NLM_F_EXCL, RTM_NEWLINK, UP, ifinfomsg, no_automatic_ipv6, port_flags,
};
use super::message::Messages;
use super::neighbour::{EntryLifetime, add_neighbour};
use super::socket::{NetlinkError, Socket};

const IFLA_INFO_DATA: u16 = 2;
const IFLA_NET_NS_FD: u16 = 28;
const VETH_INFO_PEER: u16 = 1;

/// A veth pair to make: one end is a port of the bridge, the other is created in the pod's namespace.
#[derive(Debug, Clone, Copy)]
pub(in crate::network) struct VethPair<'a> {
    pub host_name: &'a str,
    /// Set at creation: otherwise udev sets one later and announces the change.
    pub host_mac: [u8; 6],
    pub bridge_index: u32,
    pub mtu: Option<u32>,
    pub pod_name: &'a str,
    pub pod_mac: [u8; 6],
    /// It reaches no other port of the bridge.
    pub isolated: bool,
    /// The addresses that the pod's end will have.
    pub pod_addresses: &'a [IpAddr],
    pub netns: BorrowedFd<'a>,
}

/// Creates the pair; the host end is up and in the bridge, the pod's end is still down.
pub(in crate::network) fn create_veth(socket: &mut Socket, veth: &VethPair<'_>) -> Result<(), NetlinkError> {
    let mut messages = Messages::new();
    let create =
        messages.request("create veth pair", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifinfomsg(0, 0, 0));
    create.attr_str(IFLA_IFNAME, veth.host_name).attr(IFLA_ADDRESS, &veth.host_mac);
    if let Some(mtu) = veth.mtu {
        create.attr_u32(IFLA_MTU, mtu);
    }
    create.attr_u32(IFLA_MASTER, veth.bridge_index).nest(IFLA_LINKINFO, |m| {
        m.attr_str(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |m| {
            m.nest(VETH_INFO_PEER, |m| {
                m.raw(&ifinfomsg(0, 0, 0)).attr_str(IFLA_IFNAME, veth.pod_name);
                m.attr(IFLA_ADDRESS, &veth.pod_mac);
                if let Some(mtu) = veth.mtu {
                    m.attr_u32(IFLA_MTU, mtu);
                }
                m.attr_u32(IFLA_NET_NS_FD, veth.netns.as_raw_fd().cast_unsigned());
            });
        });
    });
    no_automatic_ipv6(&mut messages, veth.host_name);
    let port = messages.request("set up the host's end", RTM_NEWLINK, 0, &ifinfomsg(0, UP.0, UP.1));
    port_flags(port.attr_str(IFLA_IFNAME, veth.host_name), veth.isolated);
    for address in veth.pod_addresses {
        add_neighbour(&mut messages, veth.bridge_index, *address, veth.pod_mac, EntryLifetime::WhileUsed);
    }
    socket.run(messages)
}
