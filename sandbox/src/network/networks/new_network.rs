//! The request for a named network, and its checks.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::network::builtin::has_room;
use crate::network::pools::Pools;
use crate::network::{Addresses, Exclusions, PodCidrs, PodCidrsV6};

/// A network to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNetwork {
    /// A letter or digit, then letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// At most one of each family; a free one is chosen for a missing one.
    pub subnets: Vec<IpNet>,
    /// Whether pods get IPv6 addresses if no subnet decides that and the host has IPv6.
    pub ipv6: bool,
    /// MTU of the pods' interfaces.
    pub mtu: Option<u32>,
    /// No route to the outside, and no published ports.
    pub internal: bool,
    /// Whether pods of the network can reach each other.
    pub icc: bool,
    /// Destinations to which pods are not masqueraded.
    pub masquerade_except: Exclusions,
    /// Needs a subnet for IPv4.
    pub addresses: Addresses,
    pub labels: BTreeMap<String, String>,
}

/// A field that is refused, and the reason.
pub(super) type Refused = (&'static str, String);

/// The acceptable pools.
pub(super) fn candidates(new: &NewNetwork) -> Result<(PodCidrs, PodCidrsV6), Refused> {
    let invalid = |why: String| ("subnet", why);
    let (mut v4, mut v6) = (None, None);
    for subnet in &new.subnets {
        let text = subnet.to_string();
        let twice = match subnet {
            IpNet::V4(_) => v4.replace(text.parse().map_err(|e| invalid(format!("{e}")))?).is_some(),
            IpNet::V6(_) => v6.replace(text.parse().map_err(|e| invalid(format!("{e}")))?).is_some(),
        };
        if twice {
            return Err(invalid(format!("{subnet} is the second of its family")));
        }
    }
    let no_v6 = if new.ipv6 { PodCidrsV6::Auto } else { PodCidrsV6::Off };
    Ok((v4.unwrap_or_default(), v6.unwrap_or(no_v6)))
}

/// Each address must be in a pool that the request names.
pub(super) fn check_addresses(new: &NewNetwork) -> Result<(), Refused> {
    if new.addresses.is_default() {
        return Ok(());
    }
    let v4 = new.subnets.iter().find_map(|subnet| if let IpNet::V4(v4) = subnet { Some(v4) } else { None });
    let Some(pool) = v4 else {
        return Err(("subnet", "gateway, ip_range and aux_addresses need one for IPv4".to_owned()));
    };
    new.addresses.check(pool.trunc())
}

/// Checks the request against the chosen pools.
pub(super) fn check_pools(new: &NewNetwork, pools: Pools) -> Result<(), Refused> {
    check_mtu(new.mtu, pools)?;
    if !has_room(pools, &new.addresses) {
        return Err(("ip_range", "it, or the subnet, has no address left for a pod".to_owned()));
    }
    Ok(())
}

fn check_mtu(mtu: Option<u32>, pools: Pools) -> Result<(), Refused> {
    let least = if pools.v6.is_some() { 1280 } else { 576 };
    match mtu.filter(|mtu| !(least..=65_535).contains(mtu)) {
        Some(mtu) => Err(("mtu", format!("{mtu} is not {least} to 65535"))),
        None => Ok(()),
    }
}
