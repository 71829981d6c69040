//! A pod's request to a built-in network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Builtin;
use crate::network::NetworkError;
use crate::network::pools::Pools;
use crate::network::selection::Selection;

/// The endpoint that a pod requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EndpointRequest {
    pub interface: String,
    /// None for any address. The IPv6 address is derived from it.
    pub address: Option<Ipv4Addr>,
    pub mac: Option<[u8; 6]>,
    pub aliases: Vec<String>,
}

impl Builtin {
    /// The part of the selection that this network supports.
    pub(super) fn endpoint_request(
        &self,
        selection: &Selection,
        pools: &Pools,
    ) -> Result<EndpointRequest, NetworkError> {
        let refused =
            |why: &str| NetworkError::Selection { value: selection.name.clone(), why: why.to_owned() };
        if selection.infiniband_guid.is_some() || !selection.cni_args.is_empty() {
            return Err(refused("a built-in network knows no infiniband-guid and no cni-args"));
        }
        let mut v4 = None;
        let mut v6 = None;
        for ip in selection.ips.iter().filter_map(|ip| ip.split('/').next()?.parse::<IpAddr>().ok()) {
            let twice = match ip {
                IpAddr::V4(ip) => v4.replace(ip).is_some(),
                IpAddr::V6(ip) => v6.replace(ip).is_some(),
            };
            if twice {
                return Err(refused("ips: one address of each family at most"));
            }
        }
        let address = match (v4, v6) {
            (v4, None) => v4,
            (v4, Some(v6)) => {
                let beside =
                    v4_beside(pools, v6).ok_or_else(|| refused("ips: the IPv6 address is in no pool"))?;
                if v4.is_some_and(|v4| v4 != beside) {
                    let why = format!("ips: the pod with {v6} has {beside} as well");
                    return Err(refused(&why));
                }
                Some(beside)
            }
        };
        let mac = selection.mac.as_ref().map(|text| octets(text));
        if let Some(why) = mac.and_then(|mac| self.forbids_mac(mac, address)) {
            return Err(refused(why));
        }
        Ok(EndpointRequest {
            interface: selection.interface.clone(),
            address,
            mac,
            aliases: selection.aliases.clone(),
        })
    }
}

impl Builtin {
    /// With the hardware address of another interface, a pod would receive that interface's traffic.
    fn forbids_mac(&self, mac: [u8; 6], address: Option<Ipv4Addr>) -> Option<&'static str> {
        match mac {
            [first, ..] if first & 1 == 1 => Some("mac: it is that of a group"),
            [0, 0, 0, 0, 0, 0] => Some("mac: it is that of no interface"),
            mac if mac == self.bridge().mac() => Some("mac: it is that of the network's gateway"),
            // A hardware address that is derived from an address is reserved for the pod with that address.
            [0x0a, 0x58, a, b, c, d] if address != Some(Ipv4Addr::new(a, b, c, d)) => {
                Some("mac: 0a:58 and an address is for the pod that has, and asks for, that address")
            }
            [0x0e, 0x58, ..] => Some("mac: 0e:58 is for the host's ends of interfaces"),
            _ => None,
        }
    }
}

fn v4_beside(pools: &Pools, v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let offset = u128::from(v6).checked_sub(u128::from(pools.v6?.network()))?;
    pools.nth(u32::try_from(offset).ok()?)
}

/// Six pairs of digits, which were checked.
fn octets(text: &str) -> [u8; 6] {
    let mut mac = [0; 6];
    for (octet, pair) in mac.iter_mut().zip(text.split(':')) {
        *octet = u8::from_str_radix(pair, 16).unwrap_or_default();
    }
    mac
}
