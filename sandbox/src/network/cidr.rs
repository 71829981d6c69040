//! IPv4 networks and the list of pools to choose from.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not a network or a list of pools.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCidr {
    /// Not `a.b.c.d/n`.
    #[error("{0:?} is not an IPv4 network: expected an address, a slash and 0 to 32, like 10.88.0.0/16")]
    Syntax(String),
    /// Address bits behind the prefix.
    #[error("{given} has address bits behind its prefix: write {meant}")]
    HostBits {
        /// As written.
        given: String,
        /// The network it lies in.
        meant: Ipv4Cidr,
    },
    /// Too small for a gateway and a pod, or so large that it can't be meant.
    #[error("{0} cannot be a pod address pool: choose a prefix length from 8 to 30")]
    PoolSize(Ipv4Cidr),
}

/// An IPv4 network without host bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Cidr {
    base: u32,
    prefix: u8,
}

impl Ipv4Cidr {
    /// The network of this prefix length that `address` lies in. Lengths above 32 count as 32.
    #[must_use]
    pub fn containing(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self { base: u32::from(address) & mask(prefix), prefix }
    }

    /// The network address.
    #[must_use]
    pub fn base(&self) -> Ipv4Addr {
        self.base.into()
    }

    /// The prefix length, 0 to 32.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The netmask as an address.
    #[must_use]
    pub fn mask(&self) -> Ipv4Addr {
        mask(self.prefix).into()
    }

    /// The last address.
    #[must_use]
    pub fn broadcast(&self) -> Ipv4Addr {
        (self.base | !mask(self.prefix)).into()
    }

    /// The `offset`th address counted from the network address, if it lies inside.
    #[must_use]
    pub fn nth(&self, offset: u32) -> Option<Ipv4Addr> {
        (offset <= !mask(self.prefix)).then(|| (self.base + offset).into())
    }

    /// The address that a pool's own bridge takes: the first after the network address.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        self.nth(1).unwrap_or(self.base())
    }

    /// How far `address` is from the network address, if it lies inside.
    #[must_use]
    pub fn offset_of(&self, address: Ipv4Addr) -> Option<u32> {
        self.contains(address).then(|| u32::from(address) - self.base)
    }

    /// How many addresses it has, less one (so that /0 fits).
    #[must_use]
    pub fn last_offset(&self) -> u32 {
        !mask(self.prefix)
    }

    /// Whether `address` lies inside.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == self.base
    }

    /// Whether the two share an address, which for prefixes means that one holds the other.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.base()) || other.contains(self.base())
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Ipv4Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base(), self.prefix)
    }
}

impl FromStr for Ipv4Cidr {
    type Err = InvalidCidr;
    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let syntax = || InvalidCidr::Syntax(text.chars().take(80).collect());
        let (address, prefix) = text.split_once('/').ok_or_else(syntax)?;
        let address: Ipv4Addr = address.parse().map_err(|_| syntax())?;
        let prefix: u8 = prefix.parse().ok().filter(|p| *p <= 32).ok_or_else(syntax)?;
        let network = Self::containing(address, prefix);
        if network.base() == address {
            Ok(network)
        } else {
            Err(InvalidCidr::HostBits { given: text.to_owned(), meant: network })
        }
    }
}

impl TryFrom<String> for Ipv4Cidr {
    type Error = InvalidCidr;
    fn try_from(text: String) -> Result<Self, InvalidCidr> {
        text.parse()
    }
}

impl From<Ipv4Cidr> for String {
    fn from(cidr: Ipv4Cidr) -> Self {
        cidr.to_string()
    }
}

/// Address pools for the built-in network, in order of preference. Text form: `auto`, or networks
/// separated by commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodCidrs(Vec<Ipv4Cidr>);

/// `auto` tries this many /16 networks, from 10.88.0.0/16 up.
const AUTO_POOLS: u8 = 40;

impl PodCidrs {
    /// The pools, best first; never empty.
    #[must_use]
    pub fn candidates(&self) -> &[Ipv4Cidr] {
        &self.0
    }
}

impl Default for PodCidrs {
    fn default() -> Self {
        Self((0..AUTO_POOLS).map(|n| Ipv4Cidr::containing(Ipv4Addr::new(10, 88 + n, 0, 0), 16)).collect())
    }
}

impl FromStr for PodCidrs {
    type Err = InvalidCidr;
    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        if text == "auto" {
            return Ok(Self::default());
        }
        let pools: Vec<Ipv4Cidr> = text.split(',').map(|t| t.trim().parse()).collect::<Result<_, _>>()?;
        match pools.iter().find(|p| !(8..=30).contains(&p.prefix())) {
            Some(bad) => Err(InvalidCidr::PoolSize(*bad)),
            None => Ok(Self(pools)),
        }
    }
}

impl fmt::Display for PodCidrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::default() {
            return f.write_str("auto");
        }
        let texts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Ipv4Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_parse_and_print() {
        for text in ["10.88.0.0/16", "0.0.0.0/0", "192.168.1.4/32"] {
            assert_eq!(cidr(text).to_string(), text);
        }
        assert_eq!(cidr("10.88.0.0/16").broadcast(), Ipv4Addr::new(10, 88, 255, 255));
        assert_eq!(cidr("10.88.0.0/16").mask(), Ipv4Addr::new(255, 255, 0, 0));
    }

    #[test]
    fn wrong_networks_say_what_to_write() {
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "fd00::/8", "10.0.0.0/-1"] {
            assert!(matches!(text.parse::<Ipv4Cidr>(), Err(InvalidCidr::Syntax(_))), "{text}");
        }
        let error = "10.88.3.0/16".parse::<Ipv4Cidr>().unwrap_err();
        assert_eq!(error.to_string(), "10.88.3.0/16 has address bits behind its prefix: write 10.88.0.0/16");
        assert!(matches!("10.0.0.0/31".parse::<PodCidrs>(), Err(InvalidCidr::PoolSize(_))));
    }

    #[test]
    fn overlap_is_one_holding_the_other() {
        assert!(cidr("10.0.0.0/8").overlaps(&cidr("10.88.0.0/16")));
        assert!(cidr("10.88.7.0/24").overlaps(&cidr("10.88.0.0/16")));
        assert!(!cidr("10.89.0.0/16").overlaps(&cidr("10.88.0.0/16")));
    }

    #[test]
    fn pools_default_to_a_list_and_keep_their_order() {
        let auto: PodCidrs = "auto".parse().unwrap();
        assert_eq!(auto.candidates()[0], cidr("10.88.0.0/16"));
        assert_eq!(auto.to_string(), "auto");
        let two: PodCidrs = "172.30.0.0/24, 10.1.0.0/16".parse().unwrap();
        assert_eq!(two.to_string(), "172.30.0.0/24,10.1.0.0/16");
    }
}
