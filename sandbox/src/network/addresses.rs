//! Limits for the IPv4 addresses in the pool of a named network.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// The addresses that pods cannot have, or get only when they request them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// The bridge's own. None for the first of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    /// Pods that request no address get one of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<Ipv4Net>,
    /// Addresses for things that are no pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reserved: Vec<Ipv4Addr>,
}

impl Addresses {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Refuses addresses that are not in the pool, with the name of the field.
    pub(super) fn check(&self, pool: Ipv4Net) -> Result<(), (&'static str, String)> {
        let is_usable = |ip: Ipv4Addr| pool.contains(&ip) && ip != pool.network() && ip != pool.broadcast();
        let outside = |ip: Ipv4Addr| format!("{ip} is not an address of {pool}");
        if let Some(gateway) = self.gateway.filter(|ip| !is_usable(*ip)) {
            return Err(("gateway", outside(gateway)));
        }
        if let Some(range) = self.range.filter(|range| !pool.contains(range)) {
            return Err(("ip_range", format!("{range} is not in {pool}")));
        }
        match self.reserved.iter().find(|ip| !is_usable(**ip)) {
            Some(ip) => Err(("aux_addresses", outside(*ip))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_outside_of_the_pool_are_refused_by_name() {
        let pool = "10.1.1.0/24".parse().unwrap();
        let ip = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        let good = Addresses {
            gateway: Some(ip("10.1.1.254")),
            range: Some("10.1.1.128/25".parse().unwrap()),
            reserved: vec![ip("10.1.1.7")],
        };
        assert_eq!(good.check(pool), Ok(()));
        for (bad, field) in [
            (Addresses { gateway: Some(ip("10.1.2.1")), ..good.clone() }, "gateway"),
            (Addresses { gateway: Some(ip("10.1.1.255")), ..good.clone() }, "gateway"),
            (Addresses { range: Some("10.1.0.0/16".parse().unwrap()), ..good.clone() }, "ip_range"),
            (Addresses { reserved: vec![ip("10.1.1.0")], ..good }, "aux_addresses"),
        ] {
            assert_eq!(bad.check(pool).unwrap_err().0, field);
        }
    }
}
