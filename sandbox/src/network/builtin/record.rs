use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crisp_executor::ids::PodId;
use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::network::netlink::PodAddress;
use crate::network::nft::Published;
use crate::network::pools::Pools;
use crate::network::record::Record;
use crate::network::request::INTERFACE;
use crate::network::{AttachRequest, Attachment, DnsSettings, PortMapping, fnv};

/// The prefix of the host's interfaces of pods.
pub(super) const VETH_PREFIX: &str = "cr";

/// The name of the host's end of a pair of interfaces; `interface` is the pod's end.
pub(super) fn veth_name(pod: &PodId, interface: &str) -> String {
    if interface == INTERFACE {
        return format!("{VETH_PREFIX}{}", &pod.as_str()[..11]);
    }
    let of_both = fnv::hash(format!("{pod}{interface}").as_bytes());
    format!("{VETH_PREFIX}{:011x}", of_both >> 20)
}

/// A pod's interface in the network.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub interface: String,
    pub address: Ipv4Addr,
    pub mac: Option<[u8; 6]>,
    pub aliases: Vec<String>,
}

fn first_interface() -> String {
    INTERFACE.to_owned()
}

/// The address of the pod at the other end of the host's interface with this hardware address.
pub(super) fn address_by_host_mac(mac: [u8; 6]) -> Option<Ipv4Addr> {
    let [0x0e, 0x58, a, b, c, d] = mac else { return None };
    Some(Ipv4Addr::new(a, b, c, d))
}

/// The network in force: kept as long as pods use it, even if the settings change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ChosenNetwork {
    pub bridge: String,
    pub pools: Pools,
}

/// One pod's endpoint in it, with everything that a detach needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BuiltinRecord {
    pub pod: PodId,
    pub name: String,
    pub namespace: String,
    /// Orders the records by age.
    pub serial: u64,
    pub bridge: String,
    #[serde(flatten)]
    pub pools: Pools,
    pub veth: String,
    pub address: Ipv4Addr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_v6: Option<Ipv6Addr>,
    pub ports: Vec<PortMapping>,
    #[serde(default = "first_interface")]
    pub interface: String,
    /// A hardware address other than the one that is derived from the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<[u8; 6]>,
    /// Names under which others on the network find the pod, in addition to its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
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
        endpoint: Endpoint,
        ports: &[PortMapping],
    ) -> Self {
        let Endpoint { interface, address, mac, aliases } = endpoint;
        Self {
            pod: request.pod.clone(),
            name: request.name.clone(),
            namespace: request.namespace.clone(),
            serial,
            bridge: network.bridge.clone(),
            pools: network.pools,
            veth: veth_name(&request.pod, &interface),
            address,
            address_v6: network.pools.v6_beside(address),
            ports: ports.to_vec(),
            interface,
            mac,
            aliases,
            detached: false,
        }
    }

    /// All of them, IPv4 first.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        [Some(self.address.into()), self.address_v6.map(IpAddr::from)].into_iter().flatten()
    }

    pub(super) fn has_address(&self, ip: IpAddr) -> bool {
        self.addresses().any(|own| own == ip)
    }

    pub(super) fn attachment(&self, network: &str) -> Attachment {
        let mac = self.pod_mac().map(|b| format!("{b:02x}")).join(":");
        Attachment {
            ips: self.addresses().collect(),
            interface: self.interface.clone(),
            mac: Some(mac),
            network: network.to_owned(),
            dns: DnsSettings::default(),
        }
    }

    /// Derived from the address, so that a neighbour's cache is right even for an address that moved.
    pub(super) fn pod_mac(&self) -> [u8; 6] {
        let [a, b, c, d] = self.address.octets();
        self.mac.unwrap_or([0x0a, 0x58, a, b, c, d])
    }

    /// The hardware address of the host's end: local, and different from the pod's. If the record is lost,
    /// the server reads the address from it.
    pub(super) fn host_mac(&self) -> [u8; 6] {
        let [a, b, c, d] = self.address.octets();
        [0x0e, 0x58, a, b, c, d]
    }

    /// The addresses of the pod's interface.
    pub(super) fn interface_addresses(&self, gateway_mac: [u8; 6], has_way_out: bool) -> Vec<PodAddress> {
        let is_default = has_way_out && self.interface == INTERFACE;
        let v4 = IpNet::new(self.address.into(), self.pools.v4.prefix_len()).ok();
        let gateway = self.pools.gateway_v4().into();
        let v4 = v4.map(|address| PodAddress { address, gateway, gateway_mac, is_default });
        let v6 = self.address_v6.zip(self.pools.v6.zip(self.pools.gateway_v6()));
        let v6 = v6.and_then(|(address, (pool, gateway))| {
            let address = IpNet::new(address.into(), pool.prefix_len()).ok()?;
            Some(PodAddress { address, gateway: gateway.into(), gateway_mac, is_default })
        });
        v4.into_iter().chain(v6).collect()
    }

    /// Each port once for each address of the pod to which it is forwarded.
    pub(super) fn published(&self) -> Vec<Published> {
        let of_port = |port: &PortMapping| {
            let (protocol, container_port, host_port) = (port.protocol, port.container_port, port.host_port);
            let host_ip = port.host_ip;
            let same_family =
                move |pod: &IpAddr| host_ip.is_none_or(|host_ip| host_ip.is_ipv4() == pod.is_ipv4());
            let host_ip = host_ip.filter(|ip| !ip.is_unspecified());
            let published = move |pod| Published { pod, protocol, container_port, host_port, host_ip };
            self.addresses().filter(same_family).map(published)
        };
        self.ports.iter().flat_map(of_port).collect()
    }
}

/// The link-local address of an interface with this hardware address (RFC 4291, appendix A).
pub(super) fn link_local([a, b, c, d, e, f]: [u8; 6]) -> IpNet {
    let address = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    Ipv6Net::new_assert(address.into(), 64).into()
}
