//! [`Networks`]: the networks of all pods of one server. Attach, detach and upkeep are in separate files.

mod attach;
mod builtins;
mod connect;
mod detach;
mod manage;
mod new_network;
mod plan;
mod report;
mod upkeep;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crisp_executor::ids::PodId;
use crisp_operation::KeyedLocks;
use tokio::task::spawn_blocking;

use self::builtins::Builtins;
pub use self::connect::Connection;
pub use self::manage::{ManageError, NetworkInfo, NetworkMember};
pub use self::new_network::NewNetwork;
use super::builtin::{Builtin, LostPod};
use super::cni::Cni;
use super::dns::Dns;
use super::host_ports::{HeldPorts, HostPorts, published, refused};
use super::node_cidr::NodeCidr;
use super::{
    Attachment, DnsSettings, INTERFACE, NetworkConfig, NetworkError, NetworkKind, PodCidrError, PortMapping,
};

/// The node's pod CIDR from kubelet, in the persistent folder.
const NODE_FILE: &str = "node_cidr.json";

/// Whether pods can get a network, for the CRI NetworkReady condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkStatus {
    /// Ready.
    pub ready: bool,
    /// One CamelCase word; empty when ready.
    pub reason: String,
    /// For people: the network in force, or the file or setting that is wrong.
    pub message: String,
}

/// The network of all pods of one server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Networks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kind: NetworkKind,
    /// For people.
    cni_conf_dir: PathBuf,
    check_interval: Option<Duration>,
    collect_interval: Duration,
    /// Locked while it is written.
    node_file: Mutex<PathBuf>,
    builtins: Builtins,
    cni: Arc<Cni>,
    ports: HostPorts,
    dns: Arc<Dns>,
    locks: KeyedLocks<PodId>,
}

impl Networks {
    /// Reads the records of attached pods. Makes nothing: the bridge is made with the first pod.
    ///
    /// # Errors
    /// The settings are not valid, or the record folders cannot be made.
    pub fn open(config: &NetworkConfig) -> Result<Self, NetworkError> {
        let node_file = config.root_dir.join(NODE_FILE);
        let node = NodeCidr::load(&node_file);
        let builtins = Builtins::open(config, node)?;
        let cni = Arc::new(Cni::open(config, node)?);
        if let Some(cidr) = node
            && let Err(error) = cni.generate(&cidr)
        {
            tracing::error!(%error, "no CNI configuration is made from the template");
        }
        let ports = HostPorts::default();
        let built_in = builtins.all().into_iter().flat_map(|network| network.ports());
        for held in built_in.chain(cni.ports()) {
            ports.restore(held);
        }
        Ok(Self(Arc::new(Inner {
            kind: config.kind,
            cni_conf_dir: config.cni_conf_dir.clone(),
            check_interval: config.cni_check_interval,
            collect_interval: config.collect_interval,
            node_file: Mutex::new(node_file),
            builtins,
            cni,
            ports,
            dns: Arc::default(),
            locks: KeyedLocks::default(),
        })))
    }

    /// Reserves the host ports of a pod that will be made, so that a port in use is refused before anything
    /// else is done. [`Self::detach`] releases them.
    ///
    /// # Errors
    /// Another pod or a program has a port; the error names it.
    pub(crate) fn reserve_ports(
        &self,
        pod: &PodId,
        name: &str,
        mappings: &[PortMapping],
    ) -> Result<(), NetworkError> {
        let ports = published(mappings).map_err(|(port, why)| refused(port, why))?;
        self.0.reserve(pod, name, &ports)
    }

    /// Copies of the sockets that hold the pod's reserved host ports, for its monitor: without the first ones, and
    /// perhaps not all that follow.
    ///
    /// # Errors
    /// There are too many open files.
    pub(crate) fn port_sockets(&self, pod: &PodId, without: usize) -> Result<Vec<OwnedFd>, NetworkError> {
        self.0.ports.copies(pod, without)
    }

    /// Whether the pod of an earlier server has host ports that were in use when this one started: its monitor
    /// probably holds them.
    pub(crate) fn lacks_ports(&self, pod: &PodId) -> bool {
        self.0.ports.lacks(pod)
    }

    /// Takes what the monitor of such a pod holds: nothing if it has ended. Ports that it does not hold are reserved
    /// again or, if a program has them, logged. Blocks.
    pub(crate) fn complete_ports(&self, pod: &PodId, sockets: Vec<OwnedFd>) {
        self.0.ports.complete(pod, sockets);
    }

    /// Handles the node's pod CIDR from kubelet: for the built-in network if the settings leave its pools
    /// open, and for a CNI configuration that is made from a template. It is kept for later servers.
    ///
    /// # Errors
    /// It is not valid, or cannot be used or kept.
    pub async fn update_pod_cidr(&self, given: &str) -> Result<(), PodCidrError> {
        let cidr = given.parse().map_err(|why| PodCidrError::Invalid { given: given.to_owned(), why })?;
        let inner = Arc::clone(&self.0);
        let updated = spawn_blocking(move || inner.update_pod_cidr(cidr)).await;
        let updated = updated.unwrap_or(Err(NetworkError::Interrupted("keeping the node's pod CIDR")));
        updated.map_err(|source| PodCidrError::Failed { given: given.to_owned(), source })
    }

    /// Time limit for one call of a CNI plugin.
    #[must_use]
    pub fn plugin_deadline(&self) -> Duration {
        self.0.cni.deadline()
    }

    /// The sysctls that the namespace of a new pod with these annotations needs before the attach.
    pub(crate) fn pod_sysctls(
        &self,
        annotations: &BTreeMap<String, String>,
    ) -> &'static [(&'static str, &'static str)] {
        // A pod that cannot be attached needs none.
        let plan = self.0.plan(annotations).unwrap_or_default();
        if plan.built_in.is_empty() { &[] } else { Builtin::pod_sysctls() }
    }

    /// Makes a new record for a pod on the built-in network if its record was lost and its interface still
    /// exists.
    pub(crate) fn adopt(&self, lost: LostPod) {
        let Ok(ports) = published(&lost.ports) else { return };
        let lost = LostPod { ports, ..lost };
        let adopted = self.0.builtins.all().iter().filter(|network| network.adopt(&lost)).count();
        if adopted > 0 {
            self.0.ports.restore(HeldPorts::new(&lost.pod, &lost.namespace, &lost.name, &lost.ports));
        }
    }

    /// The pod's attachment to its first network, from memory.
    #[must_use]
    pub fn attachment(&self, pod: &PodId) -> Option<Attachment> {
        self.attachments(pod).into_iter().next()
    }

    /// The pod's attachments, one for each network.
    #[must_use]
    pub fn attachments(&self, pod: &PodId) -> Vec<Attachment> {
        let mut all = self.0.builtins.attachments(pod);
        all.extend(self.0.cni.attachments(pod));
        // The first network is that of the first interface, of either kind.
        all.sort_by_key(|attachment| attachment.interface != INTERFACE);
        all
    }

    /// The DNS server of the pod: the gateway of its first network, if that is a built-in one whose names are
    /// resolved. It resolves those of the pod's other built-in networks too.
    #[must_use]
    pub fn resolver(&self, pod: &PodId) -> Option<IpAddr> {
        let is_first = |on: Attachment| on.interface == INTERFACE;
        let networks = self.0.builtins.of_pod(pod);
        let first = networks.iter().find(|network| network.attachment(pod).is_some_and(is_first))?;
        self.0.dns.resolver(first.name())
    }

    /// The DNS settings that the plugins of the pod's first network gave; without servers there are none.
    #[must_use]
    pub fn given_dns(&self, pod: &PodId) -> Option<DnsSettings> {
        let first = self.0.cni.attachments(pod).into_iter().find(|on| on.interface == INTERFACE)?;
        Some(first.dns).filter(|dns| !dns.servers.is_empty())
    }

    /// Whether a new pod would get a network. Never waits for a plugin.
    #[must_use]
    pub fn status(&self) -> NetworkStatus {
        let status = self.0.in_force().and_then(|network| match network {
            None => self.0.builtins.default.status(),
            Some(network) => self.0.cni.status(&network),
        });
        let (ready, reason, mut message) = match status {
            Ok(message) => (true, String::new(), message),
            Err(error) => (false, error.reason().to_owned(), error.to_string()),
        };
        for (pod, why) in self.0.cni.leftovers() {
            message += &format!("; not all of pod {} is taken away: {why}", pod.short());
        }
        NetworkStatus { ready, reason, message }
    }

    /// Returns [`Self::status`]; blocks for some seconds at most while plugins respond for the first time.
    #[must_use]
    pub fn first_status(&self) -> NetworkStatus {
        if let Ok(Some(network)) = self.0.in_force() {
            self.0.cni.await_first_response(&network);
        }
        self.status()
    }

    /// Removes the bridge and the packet rules if no pod uses them. For the end of a server without pods.
    ///
    /// # Errors
    /// Something could not be removed.
    pub async fn close_if_unused(&self) -> Result<(), NetworkError> {
        let inner = Arc::clone(&self.0);
        let closed = spawn_blocking(move || {
            let all = inner.builtins.all().into_iter().map(|network| network.close_if_unused().map(|_| ()));
            all.fold(Ok(()), Result::and)
        });
        closed.await.unwrap_or(Err(NetworkError::Interrupted("close")))
    }
}

impl Inner {
    fn update_pod_cidr(&self, cidr: NodeCidr) -> Result<(), NetworkError> {
        if self.kind != NetworkKind::Cni {
            self.builtins.default.check_node_cidr(&cidr)?;
        }
        // Also excludes two updates from each other.
        let file = self.node_file.lock().unwrap_or_else(PoisonError::into_inner);
        cidr.save(&file)?;
        self.builtins.default.set_node_cidr(cidr);
        self.cni.set_node_cidr(cidr);
        self.cni.generate(&cidr)
    }

    /// A port that a pod has only because its plugins failed is free soon after they work again: the client
    /// repeats its request.
    fn reserve(&self, pod: &PodId, name: &str, ports: &[PortMapping]) -> Result<(), NetworkError> {
        self.ports.reserve(pod, name, ports, |other| self.cni.hurry_leftover(other))
    }

    fn knows(&self, pod: &PodId) -> bool {
        !self.builtins.of_pod(pod).is_empty() || self.cni.knows(pod)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::PodCidrsV6;

    #[test]
    fn pods_of_a_built_in_network_take_no_pod_for_a_router() {
        crisp_skip::needs!();
        let dir = tempfile::tempdir().unwrap();
        let config = NetworkConfig {
            kind: NetworkKind::BuiltIn,
            pod_cidrs_v6: PodCidrsV6::Off,
            state_dir: dir.path().join("state"),
            root_dir: dir.path().join("root"),
            ..NetworkConfig::default()
        };
        let networks = Networks::open(&config).unwrap();
        let sysctls = networks.pod_sysctls(&BTreeMap::new());
        assert_eq!(sysctls, [("net.ipv6.conf.default.accept_ra", "0")]);
    }
}
