//! The node's pod CIDR, which a cluster assigns and kubelet passes on.

use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;

use crisp_operation::record::{self, Durability, RecordError};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::NetworkError;

/// The reason why kubelet's pod CIDR is not used.
#[derive(Debug, thiserror::Error)]
pub enum PodCidrError {
    /// It is not valid for a node.
    #[error("network_config.pod_cidr {given:?}: {why}")]
    Invalid {
        /// The received text.
        given: String,
        /// The reason.
        why: String,
    },
    /// It is valid, but cannot be used or kept.
    #[error("network_config.pod_cidr {given:?}: {source}")]
    Failed {
        /// The received text.
        given: String,
        /// The reason.
        source: NetworkError,
    },
}

/// One network of each family, or of only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NodeCidr {
    pub v4: Option<Ipv4Net>,
    pub v6: Option<Ipv6Net>,
    /// Whether the IPv6 network came first.
    pub v6_first: bool,
}

impl record::Record for NodeCidr {
    const KIND: &'static str = "record of the node's pod CIDR";
}

impl NodeCidr {
    /// In the cluster's order.
    pub(super) fn networks(&self) -> Vec<IpNet> {
        let (v4, v6) = (self.v4.map(IpNet::from), self.v6.map(IpNet::from));
        let both = if self.v6_first { [v6, v4] } else { [v4, v6] };
        both.into_iter().flatten().collect()
    }

    /// The last pod CIDR from kubelet, if there is a record of it.
    pub(super) fn load(path: &Path) -> Option<Self> {
        match record::read(path) {
            Ok(cidr) => Some(cidr),
            Err(error) if error.is_missing() => None,
            Err(error) => {
                // kubelet sends it again when it starts.
                tracing::warn!(%error, "the node's pod CIDR is not known until kubelet sends it again");
                None
            }
        }
    }

    pub(super) fn save(&self, path: &Path) -> Result<(), RecordError> {
        record::write(path, self, Durability::PowerCut)
    }
}

impl FromStr for NodeCidr {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut cidr = Self { v4: None, v6: None, v6_first: false };
        for part in text.split(',') {
            let network = parse(part)?;
            let twice = match network {
                IpNet::V4(network) => cidr.v4.replace(network).is_some(),
                IpNet::V6(network) => {
                    cidr.v6_first = cidr.v4.is_none();
                    cidr.v6.replace(network).is_some()
                }
            };
            if twice {
                return Err(format!("{part} is the second network of its family"));
            }
        }
        Ok(cidr)
    }
}

fn parse(part: &str) -> Result<IpNet, String> {
    let expected = || {
        let part: String = part.chars().take(80).collect();
        format!("{part:?} is not a network: expected an address, a slash and a prefix length")
    };
    let network: IpNet = part.parse().map_err(|_| expected())?;
    if network.trunc() != network {
        return Err(format!("{network} has address bits behind its prefix: {} is meant", network.trunc()));
    }
    let sound = match network.addr() {
        IpAddr::V4(_) => (8..=30).contains(&network.prefix_len()),
        IpAddr::V6(_) => (16..=120).contains(&network.prefix_len()),
    };
    let address = network.addr();
    let unusable = address.is_multicast() || address.is_loopback() || address.is_unspecified();
    if !sound || unusable {
        return Err(format!(
            "{network} cannot hold pods: expected a prefix length of 8 to 30 for IPv4, 16 to 120 for IPv6"
        ));
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_or_two_networks_in_the_clusters_order() {
        for text in ["10.244.1.0/24", "fd00:1::/64", "10.244.1.0/24,fd00:1::/64", "fd00:1::/64,10.244.1.0/24"]
        {
            let cidr: NodeCidr = text.parse().unwrap();
            let texts: Vec<String> = cidr.networks().iter().map(ToString::to_string).collect();
            assert_eq!(texts.join(","), text);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, why) in [
            ("10.244.1.0", "\"10.244.1.0\" is not a network"),
            ("10.244.1.0/24,", "\"\" is not a network"),
            ("10.244.1.7/24", "10.244.1.0/24 is meant"),
            ("10.1.0.0/24,10.2.0.0/24", "10.2.0.0/24 is the second network of its family"),
            ("10.244.1.0/31", "10.244.1.0/31 cannot hold pods"),
            ("224.0.0.0/24", "cannot hold pods"),
            ("fd00::/8", "cannot hold pods"),
        ] {
            let error = text.parse::<NodeCidr>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn it_is_kept_and_damage_is_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.json");
        assert_eq!(NodeCidr::load(&path), None);
        let cidr: NodeCidr = "fd00:1::/64,10.244.1.0/24".parse().unwrap();
        cidr.save(&path).unwrap();
        assert_eq!(NodeCidr::load(&path), Some(cidr));
        std::fs::write(&path, "{").unwrap();
        assert_eq!(NodeCidr::load(&path), None);
    }
}
