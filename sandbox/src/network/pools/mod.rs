//! Address pools of the built-in network: the allowed ones, and the addresses in those that are used.

mod cidrs;
mod cidrs_v6;

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

pub use cidrs::{InvalidPool, PodCidrs};
pub use cidrs_v6::PodCidrsV6;
pub(super) use cidrs_v6::is_on as ipv6_is_on;

/// The gateway comes first after the network address.
const GATEWAY: u32 = 1;

/// The pools of one network. A pod has the same offset in both of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pools {
    #[serde(rename = "pool")]
    pub v4: Ipv4Net,
    #[serde(rename = "pool_v6", default, skip_serializing_if = "Option::is_none")]
    pub v6: Option<Ipv6Net>,
    /// The bridge's IPv4 address, if it is not the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
}

impl Pools {
    pub(super) fn networks(&self) -> Vec<IpNet> {
        std::iter::once(self.v4.into()).chain(self.v6.map(IpNet::from)).collect()
    }

    pub(super) fn gateway_v4(&self) -> Ipv4Addr {
        self.gateway.or_else(|| self.nth(GATEWAY)).unwrap_or(self.v4.network())
    }

    pub(super) fn gateway_v6(&self) -> Option<Ipv6Addr> {
        self.nth_v6(GATEWAY)
    }

    /// The bridge's own addresses, with the prefix of their pool.
    pub(super) fn gateways(&self) -> Vec<IpNet> {
        let v4 = IpNet::new(self.gateway_v4().into(), self.v4.prefix_len());
        let v6 = self.gateway_v6().zip(self.v6).map(|(ip, pool)| IpNet::new(ip.into(), pool.prefix_len()));
        [Some(v4), v6].into_iter().flatten().flatten().collect()
    }

    /// The `offset`th IPv4 address counted from the network address, if a pod can have it.
    pub(super) fn nth(&self, offset: u32) -> Option<Ipv4Addr> {
        (offset < self.end()).then(|| Ipv4Addr::from(u32::from(self.v4.network()) + offset))
    }

    fn nth_v6(&self, offset: u32) -> Option<Ipv6Addr> {
        Some(Ipv6Addr::from(u128::from(self.v6?.network()) + u128::from(offset)))
    }

    /// The distance of `address` from the network address, if it is in the pool.
    pub(super) fn offset_of(&self, address: Ipv4Addr) -> Option<u32> {
        self.v4.contains(&address).then(|| u32::from(address) - u32::from(self.v4.network()))
    }

    /// The IPv6 address of the pod that has this IPv4 address.
    pub(super) fn v6_beside(&self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        self.nth_v6(self.offset_of(address)?)
    }

    /// The first offset that a pod cannot have: that of the broadcast address, or the end of the IPv6 pool.
    pub(super) fn end(&self) -> u32 {
        let broadcast = u32::from(self.v4.hostmask());
        let v6 = self
            .v6
            .map_or(u32::MAX, |v6| 1_u32.checked_shl(u32::from(128 - v6.prefix_len())).unwrap_or(u32::MAX));
        broadcast.min(v6)
    }
}

impl fmt::Display for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.v6 {
            None => self.v4.fmt(f),
            Some(v6) => write!(f, "{} and {v6}", self.v4),
        }
    }
}

/// Whether the two share an address: for prefixes, one must contain the other.
pub(super) fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools(v4: &str, v6: Option<&str>) -> Pools {
        Pools { v4: v4.parse().unwrap(), v6: v6.map(|v6| v6.parse().unwrap()), gateway: None }
    }

    #[test]
    fn overlap_is_one_containing_the_other() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        assert!(overlap(net("10.0.0.0/8"), net("10.88.0.0/16")));
        assert!(overlap(net("10.88.7.0/24"), net("10.88.0.0/16")));
        assert!(!overlap(net("10.89.0.0/16"), net("10.88.0.0/16")));
        assert!(overlap(net("fd00::/8"), net("fd88:1::/64")));
        assert!(!overlap(net("fd00::/8"), net("10.0.0.0/8")));
    }

    #[test]
    fn offsets_count_from_the_network_address_in_both_pools() {
        let pools = pools("10.1.1.0/29", Some("fd88::/64"));
        assert_eq!(pools.gateway_v4(), Ipv4Addr::new(10, 1, 1, 1));
        assert_eq!(
            pools.gateways().iter().map(IpNet::to_string).collect::<Vec<_>>(),
            ["10.1.1.1/29", "fd88::1/64"]
        );
        assert_eq!(pools.nth(6), Some(Ipv4Addr::new(10, 1, 1, 6)));
        assert_eq!(pools.v6_beside(Ipv4Addr::new(10, 1, 1, 6)), Some("fd88::6".parse().unwrap()));
        assert_eq!((pools.end(), pools.nth(7)), (7, None));
        assert_eq!(pools.offset_of(Ipv4Addr::new(10, 1, 1, 8)), None);
    }

    #[test]
    fn the_smaller_pool_limits_the_pods() {
        assert_eq!(pools("10.0.0.0/8", Some("fd88::/120")).end(), 256);
        assert_eq!(pools("10.0.0.0/24", Some("fd88::/16")).end(), 255);
        let old: Pools = serde_json::from_str(r#"{"pool":"10.1.0.0/16"}"#).unwrap();
        assert_eq!(old, pools("10.1.0.0/16", None));
    }
}
