//! The pools that the network may use: those of the settings, or the node's if the settings leave it open.

use std::sync::PoisonError;

use ipnet::{Ipv4Net, Ipv6Net};

use super::record::ChosenNetwork;
use super::{Builtin, DEFAULT};
use crate::network::node_cidr::NodeCidr;
use crate::network::{NetworkError, PodCidrsV6};

/// Pools, best first, and the names of their settings for errors.
#[derive(Debug)]
pub(super) struct Candidates {
    pub v4: Vec<Ipv4Net>,
    pub v6: Vec<Ipv6Net>,
    pub named_by: [&'static str; 2],
}

const SETTINGS: [&str; 2] = ["pod-cidr", "pod-cidr-v6"];
/// Of `crisp network create`.
const OPTIONS: [&str; 2] = ["--subnet"; 2];
const NODE: &str = "the node's podCIDRs, or pod-cidr,";

impl Builtin {
    pub(super) fn candidates(&self) -> Candidates {
        let node = *self.node.lock().unwrap_or_else(PoisonError::into_inner);
        let mut named_by = if self.name == DEFAULT { SETTINGS } else { OPTIONS };
        let v4 = match node.and_then(|node| node.v4).filter(|_| self.pools.is_auto()) {
            Some(pool) => {
                named_by[0] = NODE;
                vec![pool]
            }
            None => self.pools.candidates().to_vec(),
        };
        let v6 = match node.filter(|_| self.pools_v6 == PodCidrsV6::Auto) {
            // If a cluster gives the node no IPv6 network, pods need no IPv6 addresses.
            Some(node) => {
                named_by[1] = NODE;
                node.v6.into_iter().collect()
            }
            None => self.pools_v6.candidates(),
        };
        Candidates { v4, v6, named_by }
    }

    /// Whether this network matches the settings.
    pub(super) fn wants(&self, ChosenNetwork { bridge, pools }: &ChosenNetwork) -> bool {
        let Candidates { v4, v6, .. } = self.candidates();
        let v6_is_wanted = pools.v6.map_or(v6.is_empty(), |pool| v6.contains(&pool));
        *bridge == self.bridge_name && v4.contains(&pools.v4) && v6_is_wanted
    }

    /// Whether the node's networks can be used.
    pub(in crate::network) fn check_node_cidr(&self, cidr: &NodeCidr) -> Result<(), NetworkError> {
        if cidr.v4.is_none() && self.pools.is_auto() { Err(NetworkError::NoIpv4) } else { Ok(()) }
    }

    /// Uses them for pods from now on; a network with pods stays until they are gone.
    pub(in crate::network) fn set_node_cidr(&self, cidr: NodeCidr) {
        *self.node.lock().unwrap_or_else(PoisonError::into_inner) = Some(cidr);
        if !self.pools.is_auto() {
            tracing::info!(pod_cidr = %self.pools, "the setting stays in force, not the node's pod CIDR");
        }
        self.warn_of_old_network();
    }
}
