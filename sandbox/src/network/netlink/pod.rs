use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use rustix::io::Errno;

use super::address::{InterfaceAddress, add_address};
use super::counters::{InterfaceCounters, all_counters};
use super::link::{link_by_name, no_automatic_ipv6, up, wait_until_up};
use super::message::Messages;
use super::neighbour::{EntryLifetime, add_neighbour};
use super::qdisc::limit_rate;
use super::route::add_default_route;
use super::socket::{NetlinkError, Socket};

/// A route socket that was opened in a pod's network namespace. Clones share the socket; callers take turns
/// of some microseconds.
#[derive(Debug, Clone)]
pub struct PodNetlink(Arc<Mutex<Socket>>);

/// The configuration of the pod's interface.
#[derive(Debug, Clone, Copy)]
pub(in crate::network) struct PodInterface<'a> {
    pub name: &'a str,
    pub addresses: &'a [PodAddress],
    /// Required for an IPv6 address: without one the kernel cannot verify an existing neighbour entry.
    pub link_local: Option<IpNet>,
}

/// An address, with its network's prefix, and the gateway of its network.
#[derive(Debug, Clone, Copy)]
pub(in crate::network) struct PodAddress {
    pub address: IpNet,
    pub gateway: IpAddr,
    pub gateway_mac: [u8; 6],
    /// Whether it is the default gateway.
    pub is_default: bool,
}

/// The step that fails in a pod with IPv6 turned off.
const ADD_IPV6: &str = "add the pod's IPv6 address";

impl PodNetlink {
    /// Takes the socket that the monitor passed out (`AF_NETLINK`, `NETLINK_ROUTE`).
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self(Arc::new(Mutex::new(Socket::from_fd(socket))))
    }

    /// Name and counters of every interface in the pod but the loopback one.
    ///
    /// # Errors
    /// The kernel refuses, or the socket is not a route socket.
    pub fn all_counters(&self) -> Result<Vec<(String, InterfaceCounters)>, NetlinkError> {
        self.with(all_counters)
    }

    /// Sets the loopback interface up, which is down in a new namespace.
    ///
    /// # Errors
    /// As [`Self::all_counters`].
    pub fn loopback_up(&self) -> Result<(), NetlinkError> {
        let mut messages = Messages::new();
        up(&mut messages, "set lo up", "lo");
        self.with(|socket| socket.run(messages))
    }

    /// Sets `lo` and the interface up, and gives the interface its addresses and default routes. Returns
    /// whether the pod has IPv6: a sysctl may have turned it off.
    pub(in crate::network) fn configure(&self, interface: &PodInterface<'_>) -> Result<bool, NetlinkError> {
        self.with(|socket| {
            let link = link_by_name(socket, interface.name)?;
            let index = link.ok_or(NetlinkError::Malformed("look up the pod's interface"))?.index;
            let has_ipv6 = match socket.run(messages(interface, index)) {
                Err(NetlinkError::Refused { step: ADD_IPV6, errno: Errno::ACCESS }) => false,
                other => other.map(|()| interface.link_local.is_some())?,
            };
            wait_until_up(socket, interface.name)?;
            Ok(has_ipv6)
        })
    }

    /// Limits the traffic that the pod sends through the interface, in bits per second.
    pub(in crate::network) fn limit(&self, name: &str, bits: u64) -> Result<(), NetlinkError> {
        self.with(|socket| limit_by_name(socket, name, bits))
    }

    fn with<T>(
        &self,
        use_it: impl FnOnce(&mut Socket) -> Result<T, NetlinkError>,
    ) -> Result<T, NetlinkError> {
        // A panic elsewhere leaves at most unread responses, which are recognised by their numbers.
        use_it(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Limits the traffic that the interface with that name sends, in bits per second.
pub(in crate::network) fn limit_by_name(
    socket: &mut Socket,
    name: &str,
    bits: u64,
) -> Result<(), NetlinkError> {
    let link = link_by_name(socket, name)?.ok_or(NetlinkError::Malformed("look up interface"))?;
    let mut messages = Messages::new();
    limit_rate(&mut messages, link.index, bits);
    socket.run(messages)
}

/// IPv6 last, because the first failure is reported.
fn messages(interface: &PodInterface<'_>, index: u32) -> Messages {
    let mut messages = Messages::new();
    up(&mut messages, "set lo up", "lo");
    no_automatic_ipv6(&mut messages, interface.name);
    up(&mut messages, "set the pod's interface up", interface.name);
    for PodAddress { address, gateway, gateway_mac, is_default } in interface.addresses {
        let (add, route) = match address {
            IpNet::V4(_) => ("add the pod's address", "add default route"),
            IpNet::V6(_) => (ADD_IPV6, "add IPv6 default route"),
        };
        add_address(&mut messages, add, InterfaceAddress { index, address: *address });
        if *is_default {
            add_default_route(&mut messages, route, *gateway, index);
        }
        add_neighbour(&mut messages, index, *gateway, *gateway_mac, EntryLifetime::WithInterface);
    }
    if let Some(address) = interface.link_local {
        add_address(&mut messages, ADD_IPV6, InterfaceAddress { index, address });
    }
    messages
}
