use std::fmt;
use std::fs;
use std::net::Ipv6Addr;
use std::str::FromStr;

use ipnet::Ipv6Net;

use super::InvalidPool;
use crate::network::fnv;

const MACHINE_ID: &str = "/etc/machine-id";
/// `auto` tries this many /64 networks.
const AUTO_POOLS: u16 = 40;

/// IPv6 address pools for the built-in network, in order of preference. Text form: `auto`, `off`, or networks
/// separated by commas.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PodCidrsV6 {
    /// Unique local networks of this machine (RFC 4193), if the host has IPv6.
    #[default]
    Auto,
    /// Pods have no IPv6 address.
    Off,
    /// Exactly these.
    Of(Vec<Ipv6Net>),
}

impl PodCidrsV6 {
    /// The pools, best first; empty for none.
    #[must_use]
    pub fn candidates(&self) -> Vec<Ipv6Net> {
        match self {
            Self::Auto if is_on() => of_this_machine(&fs::read(MACHINE_ID).unwrap_or_default()),
            Self::Auto | Self::Off => Vec::new(),
            Self::Of(pools) => pools.clone(),
        }
    }
}

/// Whether new interfaces of this host get IPv6.
pub(in crate::network) fn is_on() -> bool {
    let disabled = |scope: &str| fs::read(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"));
    ["all", "default"].into_iter().all(|scope| disabled(scope).is_ok_and(|value| value == b"0\n"))
}

/// `fd`, 40 bits that identify the machine, 16 bits that identify the network.
fn of_this_machine(id: &[u8]) -> Vec<Ipv6Net> {
    let [a, b, c, d, e, ..] = fnv::hash(id).to_be_bytes();
    let base = u128::from_be_bytes([0xfd, a, b, c, d, e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let pool = |n: u16| Ipv6Net::new_assert(Ipv6Addr::from(base | u128::from(n) << 64), 64);
    (0..AUTO_POOLS).map(pool).collect()
}

fn parse(text: &str) -> Result<Ipv6Net, InvalidPool> {
    let network: Ipv6Net =
        text.parse().map_err(|_| InvalidPool::SyntaxV6(text.chars().take(80).collect()))?;
    if network.trunc() != network {
        return Err(InvalidPool::HostBits { given: text.to_owned(), meant: network.trunc().into() });
    }
    if !(16..=120).contains(&network.prefix_len()) {
        return Err(InvalidPool::SizeV6(network));
    }
    Ok(network)
}

impl FromStr for PodCidrsV6 {
    type Err = InvalidPool;
    fn from_str(text: &str) -> Result<Self, InvalidPool> {
        Ok(match text {
            "auto" => Self::Auto,
            "off" => Self::Off,
            list => Self::Of(list.split(',').map(|pool| parse(pool.trim())).collect::<Result<_, _>>()?),
        })
    }
}

impl fmt::Display for PodCidrsV6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Off => f.write_str("off"),
            Self::Of(pools) => {
                let texts: Vec<String> = pools.iter().map(ToString::to_string).collect();
                f.write_str(&texts.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_pools_say_what_to_write() {
        for text in ["", "fd00::", "10.0.0.0/8", "fd00::/129", "on"] {
            let error = text.parse::<PodCidrsV6>().unwrap_err().to_string();
            assert!(error.contains("like fd00:10:88::/64"), "{text}: {error}");
        }
        let error = "fd00::1/64".parse::<PodCidrsV6>().unwrap_err();
        assert_eq!(error.to_string(), "fd00::1/64 has address bits behind its prefix: write fd00::/64");
        assert!(matches!("fd00::/124".parse::<PodCidrsV6>(), Err(InvalidPool::SizeV6(_))));
    }

    #[test]
    fn pools_keep_their_text_and_order() {
        for text in ["auto", "off", "fd00:1::/64,fd00:2::/112"] {
            assert_eq!(text.parse::<PodCidrsV6>().unwrap().to_string(), text);
        }
        assert_eq!(PodCidrsV6::Off.candidates(), []);
    }

    #[test]
    fn machines_have_networks_of_their_own() {
        let (one, other) = (of_this_machine(b"one"), of_this_machine(b"other"));
        assert_eq!(one.len(), 40);
        assert!(one.iter().all(|pool| !other.contains(pool) && pool.to_string().starts_with("fd")));
        assert_ne!(one[0], one[1]);
    }
}
