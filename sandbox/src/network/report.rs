//! What the networks of this server have on the machine: what the kernel has beside what the records say.

use std::collections::HashSet;
use std::net::IpAddr;

use crisp_executor::ids::PodId;

use super::NetworkError;

/// All that was found.
#[derive(Debug, Default)]
pub(crate) struct NetworkReport {
    pub things: Vec<NetworkThing>,
    /// What could not be listed.
    pub failures: Vec<NetworkError>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetworkThing {
    /// For people: `interface`, `address`.
    pub kind: &'static str,
    pub name: String,
    pub standing: Standing,
}

/// Why it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// A pod has it by its record.
    Recorded(PodId),
    /// Held for a pod.
    HostPort(PodId),
    /// Of a network as a whole, or of pods that are being taken off it.
    OfNetwork(String),
    /// A packet rule of the network of this name that no pod needs.
    StrayRule(String),
    /// An interface that no record names.
    Unrecorded { is_on_bridge: bool },
}

impl NetworkReport {
    /// The names of the interfaces found.
    pub(super) fn interfaces(&self) -> HashSet<String> {
        let interfaces = self.things.iter().filter(|thing| thing.kind == "interface");
        interfaces.map(|thing| thing.name.clone()).collect()
    }
}

/// The addresses that a pod has by its record.
pub(super) fn addresses(ips: impl Iterator<Item = IpAddr>, of: &str, pod: &PodId) -> NetworkThing {
    let ips: Vec<String> = ips.map(|ip| ip.to_string()).collect();
    let ips = if ips.is_empty() { "none yet".to_owned() } else { ips.join(", ") };
    NetworkThing {
        kind: "address",
        name: format!("{ips} on {of}"),
        standing: Standing::Recorded(pod.clone()),
    }
}
