//! The addresses of the pods, and their common network. An index of the records on disk.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};

use crisp_executor::ids::PodId;

use super::endpoint_request::EndpointRequest;
use super::ipam::Ipam;
use super::lost::{LostPod, Orphan};
use super::record::{BuiltinRecord, ChosenNetwork, Endpoint};
use crate::network::nft::Published;
use crate::network::{Addresses, AttachRequest, NetworkError, PortMapping, Protocol};

#[derive(Debug, Default)]
pub(super) struct State {
    pub network: Option<(ChosenNetwork, Ipam)>,
    /// Limits for the addresses of any chosen network.
    pub addresses: Addresses,
    pub pods: HashMap<PodId, BuiltinRecord>,
    /// Detached pods whose interfaces are not deleted yet: address and record stay until then.
    pub detached: HashMap<PodId, BuiltinRecord>,
    /// Interfaces of pods whose records are lost, by name. Their addresses are in use.
    pub orphans: HashMap<String, Orphan>,
    pub serial: u64,
    /// The network is being removed: pods can no longer join it.
    pub closed: bool,
    /// The sockets that serve DNS.
    pub dns: Vec<DnsSocket>,
}

/// A socket on a gateway that serves DNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::network) struct DnsSocket {
    pub address: SocketAddr,
    pub protocol: Protocol,
}

impl DnsSocket {
    pub(in crate::network) const PORT: u16 = 53;

    pub(super) fn published(&self) -> Published {
        Published {
            pod: self.address.ip(),
            protocol: self.protocol,
            container_port: self.address.port(),
            host_port: Self::PORT,
            host_ip: Some(self.address.ip()),
        }
    }
}

impl State {
    pub(super) fn restore(mut records: Vec<BuiltinRecord>, addresses: Addresses) -> Self {
        records.sort_by_key(|r| r.serial);
        let mut state = Self { addresses, ..Self::default() };
        if let Some(newest) = records.last() {
            state.choose(ChosenNetwork { bridge: newest.bridge.clone(), pools: newest.pools });
            state.serial = newest.serial;
        }
        for record in records {
            if let Some((_, ipam)) = &mut state.network {
                ipam.restore(record.address);
            }
            let pods = if record.detached { &mut state.detached } else { &mut state.pods };
            pods.insert(record.pod.clone(), record);
        }
        state
    }

    /// Notes the interface of a pod without a record.
    pub(super) fn add_orphan(&mut self, veth: String, orphan: Orphan) {
        if self.network.is_none() {
            self.choose(orphan.network.clone());
        }
        if let Some((_, ipam)) = &mut self.network {
            ipam.restore(orphan.address);
        }
        self.orphans.insert(veth, orphan);
    }

    /// Makes a new record of a pod whose record was lost. None when no interface of the pod was found.
    pub(super) fn adopt(&mut self, lost: &LostPod) -> Option<BuiltinRecord> {
        let found =
            lost.interfaces.iter().find(|interface| self.orphans.contains_key(&lost.veth(interface)))?;
        let orphan = self.orphans.remove(&lost.veth(found))?;
        self.serial += 1;
        let record = lost.record(self.serial, found, orphan);
        self.pods.insert(record.pod.clone(), record.clone());
        Some(record)
    }

    pub(super) fn forget_orphan(&mut self, veth: &str) {
        if let (Some(orphan), Some((_, ipam))) = (self.orphans.remove(veth), &mut self.network) {
            ipam.release(orphan.address);
        }
    }

    /// Whether the network is, or may be, in use by a pod.
    pub(super) fn is_used(&self) -> bool {
        !(self.pods.is_empty() && self.orphans.is_empty())
    }

    pub(super) fn choose(&mut self, network: ChosenNetwork) {
        let ipam = Ipam::new(network.pools, &self.addresses);
        self.network = Some((network, ipam));
    }

    pub(super) fn forget_network(&mut self) {
        self.network = None;
        self.dns.clear();
    }

    pub(super) fn insert(
        &mut self,
        request: &AttachRequest,
        wanted: &EndpointRequest,
        ports: &[PortMapping],
    ) -> Result<BuiltinRecord, NetworkError> {
        if self.pods.contains_key(&request.pod) {
            return Err(NetworkError::AlreadyAttached { pod: request.pod.clone() });
        }
        if let Some(mac) = wanted.mac
            && let Some(record) = self.pods.values().find(|record| record.pod_mac() == mac)
        {
            let mac = mac.map(|octet| format!("{octet:02x}")).join(":");
            return Err(NetworkError::AddressInUse { address: mac, holder: name_of(record) });
        }
        let holder = wanted.address.and_then(|address| self.holder_of(address));
        let Some((network, ipam)) = &mut self.network else {
            return Err(NetworkError::Interrupted("choosing a pool"));
        };
        let address = match wanted.address {
            None => ipam.allocate()?,
            Some(address) if ipam.take(address)? => address,
            Some(address) => {
                let holder = holder.unwrap_or_else(|| "a pod that is being removed".to_owned());
                return Err(NetworkError::AddressInUse { address: address.to_string(), holder });
            }
        };
        self.serial += 1;
        let endpoint = Endpoint {
            interface: wanted.interface.clone(),
            address,
            mac: wanted.mac,
            aliases: wanted.aliases.clone(),
        };
        let record = BuiltinRecord::new(request, self.serial, network, endpoint, ports);
        self.pods.insert(request.pod.clone(), record.clone());
        Ok(record)
    }

    fn holder_of(&self, address: Ipv4Addr) -> Option<String> {
        let record = self.pods.values().find(|record| record.address == address)?;
        Some(name_of(record))
    }

    pub(super) fn forget(&mut self, pod: &PodId) {
        let record = self.pods.remove(pod).or_else(|| self.detached.remove(pod));
        if let (Some(record), Some((_, ipam))) = (record, &mut self.network) {
            ipam.release(record.address);
        }
    }
}

fn name_of(record: &BuiltinRecord) -> String {
    format!("pod {}/{} ({})", record.namespace, record.name, record.pod.short())
}
