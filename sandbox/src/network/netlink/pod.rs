use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use super::address::{InterfaceAddress, add_address};
use super::counters::InterfaceCounters;
use super::link::{link_by_name, links, no_automatic_ipv6, up, wait_until_up};
use super::message::Messages;
use super::route::add_default_route;
use super::socket::{NetlinkError, Socket};
use ipnet::Ipv4Net;

/// A route socket opened inside a pod's network namespace. Cloning shares the socket; callers take
/// turns, each turn being some microseconds.
#[derive(Debug, Clone)]
pub struct PodNetlink(Arc<Mutex<Socket>>);

/// What the pod's interface gets.
#[derive(Debug, Clone, Copy)]
pub(in crate::network) struct PodAddress {
    pub address: Ipv4Addr,
    pub network: Ipv4Net,
    pub gateway: Ipv4Addr,
}

impl PodNetlink {
    /// Takes the socket that the monitor passed out (`AF_NETLINK`, `NETLINK_ROUTE`).
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self(Arc::new(Mutex::new(Socket::from_fd(socket))))
    }

    /// The counters of the pod's interface `name`, `None` when it has no such interface.
    ///
    /// # Errors
    /// When the kernel refuses, or the socket is not what it should be.
    pub fn interface_counters(&self, name: &str) -> Result<Option<InterfaceCounters>, NetlinkError> {
        Ok(self.with(|socket| link_by_name(socket, name))?.map(|link| link.counters))
    }

    /// Name and counters of every interface in the pod but the loopback one.
    ///
    /// # Errors
    /// As [`Self::interface_counters`].
    pub fn all_counters(&self) -> Result<Vec<(String, InterfaceCounters)>, NetlinkError> {
        let all = self.with(links)?;
        Ok(all.into_iter().filter(|l| l.name != "lo").map(|l| (l.name, l.counters)).collect())
    }

    /// Sets the loopback interface up, which a new namespace has down.
    ///
    /// # Errors
    /// As [`Self::interface_counters`].
    pub fn loopback_up(&self) -> Result<(), NetlinkError> {
        let mut messages = Messages::new();
        up(&mut messages, "set lo up", "lo");
        self.with(|socket| socket.run(messages))
    }

    /// Sets `lo` and `name` up, gives `name` its address and the default route.
    pub(in crate::network) fn configure(&self, name: &str, address: &PodAddress) -> Result<(), NetlinkError> {
        self.with(|socket| {
            let link = link_by_name(socket, name)?;
            let index = link.ok_or(NetlinkError::Malformed("look up the pod's interface"))?.index;
            let mut messages = Messages::new();
            up(&mut messages, "set lo up", "lo");
            no_automatic_ipv6(&mut messages, name);
            let interface = InterfaceAddress {
                index,
                address: address.address,
                prefix: address.network.prefix_len(),
                broadcast: address.network.broadcast(),
            };
            add_address(&mut messages, "add the pod's address", &interface);
            up(&mut messages, "set the pod's interface up", name);
            add_default_route(&mut messages, address.gateway, index);
            socket.run(messages)?;
            wait_until_up(socket, name)
        })
    }

    fn with<T>(
        &self,
        use_it: impl FnOnce(&mut Socket) -> Result<T, NetlinkError>,
    ) -> Result<T, NetlinkError> {
        // A panic elsewhere leaves at most unread answers behind, which are recognised as old.
        use_it(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
