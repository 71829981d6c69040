use std::net::Ipv4Addr;

use crisp_executor::id::PodId;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::network::nft::Published;
use crate::network::record::Record;
use crate::network::{AttachRequest, Attachment, DnsSettings, PortMapping};

/// Name of the interface in every pod.
pub(super) const INTERFACE: &str = "eth0";
/// What all names of the host's ends begin with.
pub(super) const VETH_PREFIX: &str = "cr";

/// Name of the host's end of a pod's pair of interfaces.
pub(super) fn veth_name(pod: &PodId) -> String {
    format!("{VETH_PREFIX}{}", &pod.as_str()[..11])
}

/// The address of the pod whose pair of interfaces has this host's end.
pub(super) fn address_by_host_mac(mac: [u8; 6]) -> Option<Ipv4Addr> {
    let [0x0e, 0x58, a, b, c, d] = mac else { return None };
    Some(Ipv4Addr::new(a, b, c, d))
}

/// The network in force: kept as long as pods use it, whatever the settings say meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ChosenNetwork {
    pub bridge: String,
    pub pool: Ipv4Net,
}

/// One pod's place in it. Holds all that taking it away needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BuiltinRecord {
    pub pod: PodId,
    pub name: String,
    pub namespace: String,
    /// Orders the records by age.
    pub serial: u64,
    pub bridge: String,
    pub pool: Ipv4Net,
    pub veth: String,
    pub address: Ipv4Addr,
    pub ports: Vec<PortMapping>,
    /// The pod is off the network and its ports are free; only its interface and address remain.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detached: bool,
}

impl crisp_operation::record::Record for BuiltinRecord {
    const KIND: &'static str = "record of the built-in network";
}

impl Record for BuiltinRecord {
    fn pod(&self) -> &PodId {
        &self.pod
    }
}

impl BuiltinRecord {
    pub(super) fn new(
        request: &AttachRequest,
        serial: u64,
        network: &ChosenNetwork,
        address: Ipv4Addr,
        ports: &[PortMapping],
    ) -> Self {
        Self {
            pod: request.pod.clone(),
            name: request.name.clone(),
            namespace: request.namespace.clone(),
            serial,
            bridge: network.bridge.clone(),
            pool: network.pool,
            veth: veth_name(&request.pod),
            address,
            ports: ports.to_vec(),
            detached: false,
        }
    }

    pub(super) fn attachment(&self) -> Attachment {
        let mac = self.pod_mac().map(|b| format!("{b:02x}")).join(":");
        Attachment {
            ips: vec![self.address.into()],
            interface: INTERFACE.to_owned(),
            mac: Some(mac),
            network: self.bridge.clone(),
            dns: DnsSettings::default(),
        }
    }

    /// Follows the address, so that a neighbour's cache is right even for an address that moved.
    pub(super) fn pod_mac(&self) -> [u8; 6] {
        let [a, b, c, d] = self.address.octets();
        [0x0a, 0x58, a, b, c, d]
    }

    /// The host's end: local, and different from the pod's.
    pub(super) fn host_mac(&self) -> [u8; 6] {
        let [_, _, a, b, c, d] = self.pod_mac();
        [0x0e, 0x58, a, b, c, d]
    }

    pub(super) fn published(&self) -> Vec<Published> {
        let host_ip = |port: &PortMapping| match port.host_ip {
            Some(std::net::IpAddr::V4(ip)) => Some(ip),
            _ => None,
        };
        self.ports
            .iter()
            .map(|port| Published {
                pod: self.address,
                protocol: port.protocol,
                container_port: port.container_port,
                host_port: port.host_port,
                host_ip: host_ip(port),
            })
            .collect()
    }
}
