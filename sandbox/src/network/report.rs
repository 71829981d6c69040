//! The networks' things on the machine: from the kernel and from the records.

use std::collections::HashSet;
use std::net::IpAddr;

use crisp_executor::ids::PodId;

use super::NetworkError;

/// The result of a report.
#[derive(Debug, Default)]
pub(crate) struct NetworkReport {
    pub things: Vec<NetworkThing>,
    /// The lists that failed.
    pub failures: Vec<NetworkError>,
}

/// A thing of the networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetworkThing {
    /// For people: `interface`, `address`.
    pub kind: &'static str,
    pub name: String,
    pub standing: Standing,
}

/// The relation of a thing to pods and networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is in the record of a pod.
    Recorded(PodId),
    /// A host port that is reserved for a pod.
    HostPort(PodId),
    /// It belongs to a network, or to pods that are being detached.
    OfNetwork(String),
    /// A packet rule of this network that no pod needs.
    StrayRule(String),
    /// An interface without a record. One that was there when this server started may be of a pod whose record is lost.
    Unrecorded { is_on_bridge: bool, may_be_lost: bool },
}

impl NetworkReport {
    /// The names of the interfaces found.
    pub(super) fn interfaces(&self) -> HashSet<String> {
        let interfaces = self.things.iter().filter(|thing| thing.kind == "interface");
        interfaces.map(|thing| thing.name.clone()).collect()
    }
}

/// The addresses in a pod's record.
pub(super) fn addresses(ips: impl Iterator<Item = IpAddr>, of: &str, pod: &PodId) -> NetworkThing {
    let ips: Vec<String> = ips.map(|ip| ip.to_string()).collect();
    let ips = if ips.is_empty() { "none yet".to_owned() } else { ips.join(", ") };
    NetworkThing {
        kind: "address",
        name: format!("{ips} on {of}"),
        standing: Standing::Recorded(pod.clone()),
    }
}
