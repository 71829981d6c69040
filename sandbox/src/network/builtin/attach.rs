//! Attaching a pod: an address, an interface, its published ports.

use std::os::fd::AsFd as _;
use std::sync::PoisonError;

use super::bridge::enable_forwarding;
use super::record::{BuiltinRecord, INTERFACE};
use super::{Builtin, route_socket};
use crate::network::host_ports::refused;
use crate::network::netlink::{PodAddress, Socket, VethPair, create_veth, wait_until_up};
use crate::network::pools::gateway;
use crate::network::{AttachRequest, Attachment, NetlinkError, NetworkError, PortMapping};

impl Builtin {
    /// Gives the pod an address, an interface and its published ports.
    pub(in crate::network) fn attach(
        &self,
        request: &AttachRequest,
        ports: &[PortMapping],
    ) -> Result<Attachment, NetworkError> {
        if let Some(port) = ports.iter().find(|p| p.host_ip.is_some_and(|ip| ip.is_ipv6())) {
            return Err(refused(port, "the built-in network publishes ports on IPv4 addresses only"));
        }
        let mut socket = route_socket()?;
        let (record, bridge_index, mtu) = self.reserve(&mut socket, request, ports)?;
        let wired = self.wire(&mut socket, request, &record, bridge_index, mtu);
        wired.map(|()| record.attachment()).map_err(|error| {
            match self.detach(&request.pod).and_then(|()| self.reap()) {
                Ok(_) => error,
                Err(undo) => NetworkError::Undo { error: Box::new(error), undo: Box::new(undo) },
            }
        })
    }

    /// Everything up to the written record; nothing of the pod exists yet.
    fn reserve(
        &self,
        socket: &mut Socket,
        request: &AttachRequest,
        ports: &[PortMapping],
    ) -> Result<(BuiltinRecord, u32, Option<u32>), NetworkError> {
        let mut setup = self.setup.lock().unwrap_or_else(PoisonError::into_inner);
        let bridge_index = self.ensure(&mut setup, socket)?;
        enable_forwarding()?;
        if self.state().detached.contains_key(&request.pod) {
            // The same pod comes back at once: its old interface has the name of the new one.
            self.reap()?;
        }
        let mut record = self.state().insert(request, ports);
        if matches!(record, Err(NetworkError::PoolExhausted { .. })) && self.reap()? {
            record = self.state().insert(request, ports);
        }
        let record = record?;
        if let Err(error) = self.records.write(&record) {
            self.state().forget(&request.pod);
            return Err(error.into());
        }
        Ok((record, bridge_index, setup.mtu))
    }

    fn wire(
        &self,
        socket: &mut Socket,
        request: &AttachRequest,
        record: &BuiltinRecord,
        bridge_index: u32,
        mtu: Option<u32>,
    ) -> Result<(), NetworkError> {
        let failed = |source: NetlinkError| NetworkError::Netlink {
            step: format!("attach pod {} to bridge {}", record.pod.short(), record.bridge),
            source,
        };
        let veth = VethPair {
            host_name: &record.veth,
            host_mac: record.host_mac(),
            bridge_index,
            mtu,
            pod_name: INTERFACE,
            pod_mac: record.pod_mac(),
            netns: request.netns.as_fd(),
        };
        create_veth(socket, &veth).map_err(failed)?;
        let gateway = gateway(record.pool);
        let address = PodAddress { address: record.address, network: record.pool, gateway };
        request.netlink.configure(INTERFACE, &address).map_err(failed)?;
        wait_until_up(socket, &record.veth).map_err(failed)?;
        wait_until_up(socket, &record.bridge).map_err(failed)?;
        let ports = record.published();
        if ports.is_empty() { Ok(()) } else { self.publish(&ports) }
    }
}
