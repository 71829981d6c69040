//! Attaches a pod: an address, an interface, its published ports.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::sync::PoisonError;

use crisp_operation::record::RecordError;

use super::limit::limit;
use super::record::{BuiltinRecord, link_local};
use super::{Builtin, forwarding, route_socket};
use crate::network::bandwidth::Bandwidth;
use crate::network::host_ports::refused;
use crate::network::netlink::{PodInterface, Socket, VethPair, create_veth, links, wait_until_up};
use crate::network::selection::{Selection, is_first};
use crate::network::{AttachRequest, Attachment, INTERFACE, NetlinkError, NetworkError, PortMapping};

impl Builtin {
    /// Gives the pod an address, an interface and its published ports.
    pub(in crate::network) fn attach(
        &self,
        request: &AttachRequest,
        selection: &Selection,
        ports: &[PortMapping],
    ) -> Result<Attachment, NetworkError> {
        // Ports and bandwidth belong to the pod's first network.
        let (ports, annotations) = match is_first(selection) {
            true => (ports, &request.annotations),
            false => (&[][..], &BTreeMap::new()),
        };
        let bandwidth = Bandwidth::of(annotations)?;
        let mut socket = route_socket()?;
        let (mut record, bridge_index, mtu) = self.reserve(&mut socket, request, selection, ports)?;
        let wired = self.wire(&mut socket, request, &mut record, bridge_index, mtu);
        let wired = wired.and_then(|()| {
            let step = || format!("attach pod {} to bridge {}", record.pod.short(), record.bridge);
            limit(&mut socket, request, &record, bandwidth)
                .map_err(|source| NetworkError::Netlink { step: step(), source })
        });
        let wired = wired.and_then(|()| self.finish(&record));
        wired.map(|()| record.attachment(&self.name)).map_err(|error| {
            match self.undo_attach(&request.pod).and_then(|()| self.reap()) {
                Ok(_) => error,
                Err(undo) => NetworkError::Undo { error: Box::new(error), undo: Box::new(undo) },
            }
        })
    }

    /// All steps up to the written record; nothing of the pod exists yet.
    fn reserve(
        &self,
        socket: &mut Socket,
        request: &AttachRequest,
        selection: &Selection,
        ports: &[PortMapping],
    ) -> Result<(BuiltinRecord, u32, Option<u32>), NetworkError> {
        let mut setup = self.setup.lock().unwrap_or_else(PoisonError::into_inner);
        if self.state().closed {
            return Err(NetworkError::Removed(self.name.clone()));
        }
        let bridge_index = self.ensure(&mut setup, socket)?;
        let pools = self.state().network.as_ref().map(|(network, _)| network.pools);
        let pools = pools.ok_or(NetworkError::Interrupted("choosing a pool"))?;
        self.check_ports(ports, pools.v6.is_some())?;
        let wanted = self.endpoint_request(selection, &pools)?;
        if !self.options.internal {
            forwarding::enable(pools.v6.is_some(), || links(socket).unwrap_or_default())?;
        }
        if self.state().detached.contains_key(&request.pod) {
            // If the same pod comes back at once, its old interface has the name of the new one.
            self.reap()?;
        }
        let mut record = self.state().insert(request, &wanted, ports);
        let is_taken =
            matches!(record, Err(NetworkError::PoolExhausted { .. } | NetworkError::AddressInUse { .. }));
        if is_taken && self.reap()? {
            record = self.state().insert(request, &wanted, ports);
        }
        let record = record?;
        if let Err(error) = self.write_unfinished(&record) {
            self.state().forget(&request.pod);
            return Err(error.into());
        }
        Ok((record, bridge_index, setup.mtu))
    }

    fn wire(
        &self,
        socket: &mut Socket,
        request: &AttachRequest,
        record: &mut BuiltinRecord,
        bridge_index: u32,
        mtu: Option<u32>,
    ) -> Result<(), NetworkError> {
        let step = format!("attach pod {} to bridge {}", record.pod.short(), record.bridge);
        let failed = |source: NetlinkError| NetworkError::Netlink { step: step.clone(), source };
        let veth = VethPair {
            host_name: &record.veth,
            host_mac: record.host_mac(),
            bridge_index,
            mtu,
            pod_name: &record.interface,
            pod_mac: record.pod_mac(),
            isolated: !self.options.icc,
            pod_addresses: &record.addresses().collect::<Vec<_>>(),
            netns: request.netns.as_fd(),
        };
        create_veth(socket, &veth).map_err(failed)?;
        // It is a port of the bridge. Should another program delete that, no packet of the pod reaches the host.
        forwarding::set_ipv6(&record.veth, false)?;
        if record.interface != INTERFACE {
            forwarding::ignore_routers_in(request.netns.as_fd(), &record.interface)?;
        }
        let interface = PodInterface {
            name: &record.interface,
            addresses: &record.interface_addresses(self.bridge().mac(), !self.options.internal),
            link_local: record.address_v6.map(|_| link_local(record.pod_mac())),
        };
        let has_ipv6 = request.netlink.configure(&interface).map_err(failed)?;
        if record.address_v6.is_some() && !has_ipv6 {
            self.forget_v6(record)?;
        }
        wait_until_up(socket, &record.veth).map_err(failed)?;
        wait_until_up(socket, &record.bridge).map_err(failed)?;
        let ports = record.published();
        if ports.is_empty() { Ok(()) } else { self.publish(&ports) }
    }

    /// The pod has IPv6 turned off, so it gets no IPv6 address.
    fn forget_v6(&self, record: &mut BuiltinRecord) -> Result<(), NetworkError> {
        record.address_v6 = None;
        self.state().pods.insert(record.pod.clone(), record.clone());
        Ok(self.write_unfinished(record)?)
    }

    /// Writes the record of a pod whose attachment is under way. If this server is killed, the next one removes a new
    /// pod. A pod that only joins one more network stays: until [`Self::finish`] its record says that it has left.
    fn write_unfinished(&self, record: &BuiltinRecord) -> Result<(), RecordError> {
        let detached = record.interface != INTERFACE;
        self.records.write(&BuiltinRecord { detached, ..record.clone() })
    }

    fn finish(&self, record: &BuiltinRecord) -> Result<(), NetworkError> {
        if record.interface != INTERFACE {
            self.records.write(record)?;
        }
        Ok(())
    }

    /// Each port must lead to an address of the pod.
    fn check_ports(&self, ports: &[PortMapping], has_ipv6: bool) -> Result<(), NetworkError> {
        for port in ports {
            let why = match port.host_ip {
                _ if self.options.internal => "the pod's network is internal: nothing leads into it",
                Some(IpAddr::V6(_)) if !has_ipv6 => "pods have no IPv6 address: set pod-cidr-v6",
                Some(IpAddr::V6(Ipv6Addr::LOCALHOST)) => {
                    "the kernel does not redirect what is sent to [::1]: publish it on 127.0.0.1"
                }
                _ => continue,
            };
            return Err(refused(port, why));
        }
        Ok(())
    }
}
