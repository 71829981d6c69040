//! A pod's request to its network, and the result.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crisp_executor::ids::PodId;
use crisp_operation::Cancel;
use serde::{Deserialize, Serialize};

use super::PodNetlink;

/// Name of the interface in every pod, for any network.
pub const INTERFACE: &str = "eth0";

/// The transport protocol of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Its name, as in CNI's portMappings capability.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// Its number in the IP header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A container port and its host port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Transport.
    pub protocol: Protocol,
    /// Port in the pod.
    pub container_port: u16,
    /// Port on the host; 0 means that the port is informational and nothing is published.
    pub host_port: u16,
    /// The host address on which it is published; `None` means all, an unspecified address all of its family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

/// The pod's resolver settings, for CNI plugins that ask for them (capability `dns`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsSettings {
    /// Resolver addresses.
    #[serde(default)]
    pub servers: Vec<String>,
    /// Search domains.
    #[serde(default)]
    pub searches: Vec<String>,
    /// resolv.conf options.
    #[serde(default)]
    pub options: Vec<String>,
}

/// The inputs for attaching one pod.
#[derive(Debug, Clone)]
pub struct AttachRequest {
    /// The pod.
    pub pod: PodId,
    /// Kubernetes name, for CNI and for messages.
    pub name: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Kubernetes uid.
    pub uid: String,
    /// A route socket opened in the pod's network namespace.
    pub netlink: PodNetlink,
    /// The pod's network namespace.
    pub netns: Arc<OwnedFd>,
    /// Ports to publish.
    pub port_mappings: Vec<PortMapping>,
    /// Annotations: bandwidth, and networks in addition to the default one.
    pub annotations: BTreeMap<String, String>,
    /// Resolver settings.
    pub dns: DnsSettings,
    /// The parent cgroup of the pod's containers, for CNI plugins that ask for it.
    pub cgroup: Option<String>,
    /// Cancels a running CNI plugin; networks that were attached before are detached.
    pub cancel: Cancel,
}

/// The result of an attach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The pod's addresses, the primary one first.
    pub ips: Vec<IpAddr>,
    /// Name of the interface in the pod.
    pub interface: String,
    /// Its hardware address, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The bridge of the built-in network, or the CNI network's name.
    pub network: String,
    /// The network's DNS settings, which CNI results may have: for a pod that has none of its own.
    #[serde(default)]
    pub dns: DnsSettings,
}
