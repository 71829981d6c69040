//! Pods on the bridge whose records are lost: the kernel's state keeps their addresses in use.
//!
//! An interface is found by its bridge, which this server has made, and by its name; its hardware address
//! contains the pod's address. The pod's own record has the rest.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use crisp_executor::ids::PodId;
use ipnet::IpNet;

use super::bridge::Bridge;
use super::record::{BuiltinRecord, ChosenNetwork, VETH_PREFIX, address_by_host_mac, veth_name};
use super::{Builtin, route_socket};
use crate::network::netlink::{InterfaceAddress, Link, addresses, link_by_name, links};
use crate::network::pools::Pools;
use crate::network::{INTERFACE, NetlinkError, NetworkError, PortMapping};

/// Data from the pod's own record, for a pod whose network record may be lost.
#[derive(Debug, Clone)]
pub(crate) struct LostPod {
    pub pod: PodId,
    pub name: String,
    pub namespace: String,
    pub ports: Vec<PortMapping>,
    /// The interfaces that it may have.
    pub interfaces: Vec<String>,
}

/// The interface of a pod without a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Orphan {
    pub network: ChosenNetwork,
    pub address: Ipv4Addr,
}

impl Builtin {
    /// Records the interfaces of pods without records. If the kernel does not answer, none are recorded; none
    /// could be used then.
    pub(super) fn find_orphans(&self) {
        match self.orphans() {
            Ok(orphans) => {
                for (veth, orphan) in orphans {
                    tracing::warn!(%veth, address = %orphan.address, "the network record of a pod is lost; its address stays in use");
                    self.state().add_orphan(veth, orphan);
                }
            }
            Err(error) => tracing::warn!(%error, "cannot look for pods whose network records are lost"),
        }
    }

    fn orphans(&self) -> Result<HashMap<String, Orphan>, NetworkError> {
        let mut socket = route_socket()?;
        let listed =
            |source: NetlinkError| NetworkError::Netlink { step: "list interfaces".to_owned(), source };
        let all = links(&mut socket).map_err(listed)?;
        let own = Bridge::new(&self.bridge_name, &self.state_dir);
        let bridges: Vec<&Link> = all.iter().filter(|link| own.is_of_this_server(link)).collect();
        if bridges.is_empty() {
            return Ok(HashMap::new());
        }
        let gateways = addresses(&mut socket).map_err(listed)?;
        let state = self.state();
        let known =
            |name: &str| state.pods.values().chain(state.detached.values()).any(|record| record.veth == name);
        let orphan = |link: &Link| {
            let bridge = bridges.iter().find(|bridge| bridge.index == link.master)?;
            let network = ChosenNetwork { bridge: bridge.name.clone(), pools: pools_of(&gateways, bridge)? };
            Some((link.name.clone(), Orphan { network, address: address_by_host_mac(link.mac?)? }))
        };
        let veths = all.iter().filter(|link| link.kind == "veth" && link.name.starts_with(VETH_PREFIX));
        Ok(veths.filter(|link| !known(&link.name)).filter_map(orphan).collect())
    }

    /// Writes a new record for a pod whose record was lost. Returns whether it was lost.
    pub(in crate::network) fn adopt(&self, lost: &LostPod) -> bool {
        let Some(record) = self.state().adopt(lost) else { return false };
        if let Err(error) = self.records.write(&record) {
            tracing::warn!(pod = lost.pod.short(), %error, "cannot write the network record of a pod again");
        }
        true
    }

    /// Forgets interfaces that are gone.
    pub(super) fn prune_orphans(&self) -> Result<(), NetworkError> {
        let names: Vec<String> = self.state().orphans.keys().cloned().collect();
        let mut socket = route_socket()?;
        for name in names {
            let step = || format!("look up interface {name}");
            let link = link_by_name(&mut socket, &name)
                .map_err(|source| NetworkError::Netlink { step: step(), source })?;
            if link.is_none() {
                self.state().forget_orphan(&name);
            }
        }
        Ok(())
    }
}

fn pools_of(all: &[InterfaceAddress], bridge: &Link) -> Option<Pools> {
    let mut addresses = all.iter().filter(|address| address.index == bridge.index).map(|a| a.address);
    let own = addresses.clone().find_map(|own| if let IpNet::V4(own) = own { Some(own) } else { None })?;
    let v6 = addresses.find_map(|own| match own.trunc() {
        IpNet::V6(pool) if !pool.addr().is_unicast_link_local() => Some(pool),
        _ => None,
    });
    let usual = Pools { v4: own.trunc(), v6, gateway: None };
    let gateway = Some(own.addr()).filter(|own| *own != usual.gateway_v4());
    Some(Pools { gateway, ..usual })
}

impl LostPod {
    pub(super) fn veth(&self, interface: &str) -> String {
        veth_name(&self.pod, interface)
    }

    pub(super) fn record(&self, serial: u64, interface: &str, orphan: Orphan) -> BuiltinRecord {
        let is_first = interface == INTERFACE;
        BuiltinRecord {
            pod: self.pod.clone(),
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            serial,
            bridge: orphan.network.bridge,
            pools: orphan.network.pools,
            veth: self.veth(interface),
            address: orphan.address,
            address_v6: orphan.network.pools.v6_beside(orphan.address),
            ports: if is_first { self.ports.clone() } else { Vec::new() },
            interface: interface.to_owned(),
            mac: None,
            aliases: Vec::new(),
            detached: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::builtin::BuiltinConfig;
    use crate::network::{NetworkConfig, Protocol};

    #[test]
    fn a_lost_record_is_written_again_with_what_the_pods_own_says() {
        let folder = tempfile::tempdir().unwrap();
        let config = BuiltinConfig::of_settings(&NetworkConfig {
            bridge_name: "crisp-none".to_owned(),
            state_dir: folder.path().to_owned(),
            ..Default::default()
        });
        let builtin = Builtin::open(config.clone(), None).unwrap();
        let port =
            PortMapping { protocol: Protocol::Tcp, container_port: 80, host_port: 8080, host_ip: None };
        let lost = LostPod {
            pod: PodId::random(),
            name: "web".to_owned(),
            namespace: "default".to_owned(),
            ports: vec![port.clone()],
            interfaces: vec!["net1".to_owned(), "eth0".to_owned()],
        };
        assert!(!builtin.adopt(&lost), "it has no interface");
        let pools = Pools {
            v4: "10.99.0.0/24".parse().unwrap(),
            v6: Some("fd99::/64".parse().unwrap()),
            gateway: None,
        };
        let network = ChosenNetwork { bridge: "crisp-none".to_owned(), pools };
        let address = address_by_host_mac([0x0e, 0x58, 10, 99, 0, 2]).unwrap();
        builtin.state().add_orphan(lost.veth("eth0"), Orphan { network, address });
        assert!(builtin.state().is_used());
        assert!(builtin.adopt(&lost));
        let ips = builtin.attachment(&lost.pod).unwrap().ips;
        assert_eq!(ips.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.99.0.2", "fd99::2"]);
        // The next server finds it.
        let next = Builtin::open(config, None).unwrap();
        assert_eq!((next.pods(), next.ports()[0].ports.clone()), (vec![lost.pod.clone()], vec![port]));
    }

    #[test]
    fn the_addresses_of_other_interfaces_say_nothing() {
        assert_eq!(address_by_host_mac([0x02, 0x58, 10, 99, 0, 2]), None);
    }
}
