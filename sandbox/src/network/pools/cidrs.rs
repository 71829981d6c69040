use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The reason why a text is not a list of pools.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPool {
    /// Not `a.b.c.d/n`.
    #[error("{0:?} is not an IPv4 network: expected an address, a slash and 0 to 32, like 10.88.0.0/16")]
    Syntax(String),
    /// Address bits after the prefix.
    #[error("{given} has address bits behind its prefix: write {meant}")]
    HostBits {
        /// The text.
        given: String,
        /// The network that contains the address.
        meant: IpNet,
    },
    /// Too small for a gateway and a pod, or so large that it is probably an error.
    #[error("{0} cannot be a pod address pool: choose a prefix length from 8 to 30")]
    Size(Ipv4Net),
    /// Not an IPv6 network.
    #[error("{0:?} is not an IPv6 network: expected an address, a slash and 0 to 128, like fd00:10:88::/64")]
    SyntaxV6(String),
    /// Too small or too large.
    #[error("{0} cannot be a pod address pool: choose a prefix length from 16 to 120")]
    SizeV6(Ipv6Net),
}

/// Address pools for the built-in network, in order of preference. Text form: `auto`, or networks
/// separated by commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodCidrs(Vec<Ipv4Net>);

/// `auto` tries this many /16 networks, from 10.88.0.0/16 up.
const AUTO_POOLS: u8 = 40;

impl PodCidrs {
    /// The pools, best first; never empty.
    #[must_use]
    pub fn candidates(&self) -> &[Ipv4Net] {
        &self.0
    }

    /// Exactly these; there must be at least one.
    pub(in crate::network) fn of(pools: Vec<Ipv4Net>) -> Self {
        Self(pools)
    }

    /// Whether any free one may be chosen.
    pub(in crate::network) fn is_auto(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for PodCidrs {
    fn default() -> Self {
        let pool = |n| Ipv4Net::new_assert(Ipv4Addr::new(10, 88 + n, 0, 0), 16);
        Self((0..AUTO_POOLS).map(pool).collect())
    }
}

fn parse(text: &str) -> Result<Ipv4Net, InvalidPool> {
    let network: Ipv4Net = text.parse().map_err(|_| InvalidPool::Syntax(text.chars().take(80).collect()))?;
    if network.trunc() != network {
        return Err(InvalidPool::HostBits { given: text.to_owned(), meant: network.trunc().into() });
    }
    if !(8..=30).contains(&network.prefix_len()) {
        return Err(InvalidPool::Size(network));
    }
    Ok(network)
}

impl FromStr for PodCidrs {
    type Err = InvalidPool;
    fn from_str(text: &str) -> Result<Self, InvalidPool> {
        if text == "auto" {
            return Ok(Self::default());
        }
        Ok(Self(text.split(',').map(|pool| parse(pool.trim())).collect::<Result<_, _>>()?))
    }
}

impl fmt::Display for PodCidrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_auto() {
            return f.write_str("auto");
        }
        let texts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn wrong_pools_say_what_to_write() {
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "fd00::/8", "10.0.0.0/-1"] {
            assert!(matches!(text.parse::<PodCidrs>(), Err(InvalidPool::Syntax(_))), "{text}");
        }
        let error = "10.88.3.0/16".parse::<PodCidrs>().unwrap_err();
        assert_eq!(error.to_string(), "10.88.3.0/16 has address bits behind its prefix: write 10.88.0.0/16");
        assert!(matches!("10.0.0.0/31".parse::<PodCidrs>(), Err(InvalidPool::Size(_))));
    }

    #[test]
    fn pools_default_to_a_list_and_keep_their_order() {
        let auto: PodCidrs = "auto".parse().unwrap();
        assert_eq!(auto.candidates()[0], net("10.88.0.0/16"));
        assert_eq!(auto.to_string(), "auto");
        let two: PodCidrs = "172.30.0.0/24, 10.1.0.0/16".parse().unwrap();
        assert_eq!(two.to_string(), "172.30.0.0/24,10.1.0.0/16");
    }
}
