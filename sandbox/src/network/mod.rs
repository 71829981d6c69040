//! The pod's network: an address, a route to the outside, and published host ports.
//!
//! ```text
//!                    Networks  (a default for every pod, others by annotation: `selection.rs`)
//!                   /        \
//!   the settings', and        a *.conflist / *.conf / *.json
//!   those made by name
//!        |                            |
//!     builtin                        cni
//!   bridge + veth by netlink/      plugins run by cni/exec.rs
//!   masquerade + ports by nft/
//!   names of pods by dns/
//!        \                            /
//!         one record per pod, written before the first step, removed after the last
//! ```
//!
//! The server does not enter a pod's namespace: the monitor passes a netlink socket that was opened inside it
//! ([`PodNetlink`]), through which everything in the pod is set up. Only threads that a [`Dialer`] starts
//! enter a namespace, make a socket and end.
//!
//! - [`Networks`]: `attach`, `detach`, `collect`, `status` of all pods.
//! - [`AttachRequest`] in, [`Attachment`] out, [`NetworkError`] when it fails.
//! - [`PodNetlink`]: also reads the pod's interface counters ([`InterfaceCounters`]).
//! - [`PodCidrs`]: the address pools that the built-in network may use.

mod addresses;
mod bandwidth;
mod builtin;
mod cni;
mod config;
mod conntrack;
mod definition;
mod dial;
mod dns;
mod error;
mod exclusions;
mod host_ports;
mod netlink;
mod networks;
mod nft;
mod node_cidr;
mod pools;
mod record;
mod report;
mod request;
mod selection;

pub use addresses::Addresses;
pub(crate) use builtin::{LostPod, may_be_of};
pub(crate) use cni::metrics::register as register_metrics;
#[cfg(feature = "fuzz")]
pub(crate) use cni::read_result as read_cni_result;
pub use cni::{CniConfiguration, cni_configurations};
pub(crate) use cni::{is_namespace, namespaces_with_paths, withdraw_namespace};
pub use config::{DEFAULT_CNI_DEADLINE, NetworkConfig, NetworkKind};
pub use dial::{DialError, Dialer};
#[cfg(feature = "fuzz")]
pub(crate) use dns::answer_query;
pub use error::NetworkError;
pub use exclusions::Exclusions;
pub(crate) use host_ports::published;
pub use netlink::{InterfaceCounters, NetlinkError, PodNetlink};
pub use networks::{
    Connection, ManageError, NetworkInfo, NetworkMember, NetworkStatus, Networks, NewNetwork,
};
pub use node_cidr::PodCidrError;
pub use pools::{InvalidPool, PodCidrs, PodCidrsV6};
pub(crate) use report::{NetworkReport, NetworkThing, Standing};
pub use request::{AttachRequest, Attachment, DnsSettings, INTERFACE, PortMapping, Protocol};
pub use selection::ANNOTATION as NETWORKS_ANNOTATION;
pub(crate) use selection::interfaces;

/// Whether an annotation of this key is about the pod's own network.
pub(crate) fn is_setting(key: &str) -> bool {
    key == NETWORKS_ANNOTATION || bandwidth::is_limit(key)
}

mod fnv {
    /// FNV-1a: spreads names over numbers. Not safe against an attacker.
    pub(super) fn hash(bytes: &[u8]) -> u64 {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
    }
}
