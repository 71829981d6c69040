//! [`Networks`]: of all pods of one server. Attaching, detaching and upkeep are files of their own.

mod attach;
mod builtins;
mod connect;
mod detach;
mod manage;
mod plan;
mod report;
mod upkeep;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crisp_executor::ids::PodId;
use crisp_operation::KeyedLocks;
use tokio::task::spawn_blocking;

use self::builtins::Builtins;
pub use self::connect::Connection;
pub use self::manage::{ManageError, NetworkInfo, NetworkMember, NewNetwork};
pub use self::upkeep::LastUpkeep;
use super::builtin::LostPod;
use super::cni::Cni;
use super::dns::Dns;
use super::host_ports::{HeldPorts, HostPorts, published, refused};
use super::node_cidr::NodeCidr;
use super::{Attachment, INTERFACE, NetworkConfig, NetworkError, NetworkKind, PodCidrError, PortMapping};

/// What kubelet said of the node, in the folder that is kept.
const NODE_FILE: &str = "node_cidr.json";

/// Whether pods can get a network, as the CRI NetworkReady condition has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkStatus {
    /// Ready.
    pub ready: bool,
    /// One CamelCase word; empty when ready.
    pub reason: String,
    /// For people: which network is in force, or what is wrong with which file or setting.
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
    /// Locked while it is written.
    node_file: Mutex<PathBuf>,
    builtins: Builtins,
    cni: Arc<Cni>,
    ports: HostPorts,
    dns: Arc<Dns>,
    locks: KeyedLocks<PodId>,
}

impl Networks {
    /// Reads the records of attached pods. Makes nothing: the bridge comes with the first pod.
    ///
    /// # Errors
    /// When the settings can't work or the record folders can't be made.
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
            node_file: Mutex::new(node_file),
            builtins,
            cni,
            ports,
            dns: Arc::default(),
            locks: KeyedLocks::default(),
        })))
    }

    /// Takes the host ports of a pod that is about to be made, so that one that is in use is refused before
    /// anything else is done. [`Self::detach`] gives them back.
    ///
    /// # Errors
    /// The port that another pod or a program has, with its holder.
    pub(crate) fn reserve_ports(
        &self,
        pod: &PodId,
        name: &str,
        mappings: &[PortMapping],
    ) -> Result<(), NetworkError> {
        let ports = published(mappings).map_err(|(port, why)| refused(port, why))?;
        self.0.ports.reserve(pod, name, &ports)
    }

    /// Takes the node's pod CIDR, as kubelet sends it: for the built-in network where the settings leave its
    /// pools open, and for a CNI configuration made from a template. It is kept for the servers to come.
    ///
    /// # Errors
    /// What is wrong with it, or why it cannot be used or kept.
    pub async fn update_pod_cidr(&self, given: &str) -> Result<(), PodCidrError> {
        let cidr = given.parse().map_err(|why| PodCidrError::Invalid { given: given.to_owned(), why })?;
        let inner = Arc::clone(&self.0);
        let updated = spawn_blocking(move || inner.update_pod_cidr(cidr)).await;
        let updated = updated.unwrap_or(Err(NetworkError::Interrupted("keeping the node's pod CIDR")));
        updated.map_err(|source| PodCidrError::Failed { given: given.to_owned(), source })
    }

    /// How long one call of a CNI plugin may take.
    #[must_use]
    pub fn plugin_deadline(&self) -> Duration {
        self.0.cni.deadline()
    }

    /// What the namespace of a new pod with these annotations needs to be set to before it is attached.
    pub(crate) fn pod_sysctls(
        &self,
        annotations: &BTreeMap<String, String>,
    ) -> &'static [(&'static str, &'static str)] {
        // A pod that cannot be attached needs none.
        let plan = self.0.plan(annotations).unwrap_or_default();
        plan.built_in.iter().map(|(network, _)| network.pod_sysctls()).max().unwrap_or_default()
    }

    /// Makes the record of a pod on the built-in network anew where it was lost and the pod's interface is
    /// still there.
    pub(crate) fn adopt(&self, lost: LostPod) {
        let Ok(ports) = published(&lost.ports) else { return };
        let lost = LostPod { ports, ..lost };
        let adopted = self.0.builtins.all().iter().filter(|network| network.adopt(&lost)).count();
        if adopted > 0 {
            self.0.ports.restore(HeldPorts::new(&lost.pod, &lost.namespace, &lost.name, &lost.ports));
        }
    }

    /// What the pod was given of its first network, from memory.
    #[must_use]
    pub fn attachment(&self, pod: &PodId) -> Option<Attachment> {
        self.attachments(pod).into_iter().next()
    }

    /// What the pod was given, network by network.
    #[must_use]
    pub fn attachments(&self, pod: &PodId) -> Vec<Attachment> {
        let mut all = self.0.builtins.attachments(pod);
        all.extend(self.0.cni.attachments(pod));
        // The first network is that of the first interface, of whichever kind it is.
        all.sort_by_key(|attachment| attachment.interface != INTERFACE);
        all
    }

    /// Where the pod asks for the names of others: the gateway of its first network, where that is a built-in one
    /// whose names are resolved.
    #[must_use]
    pub fn resolver(&self, pod: &PodId) -> Option<IpAddr> {
        let is_first = |on: Attachment| on.interface == INTERFACE;
        let networks = self.0.builtins.of_pod(pod);
        let first = networks.iter().find(|network| network.attachment(pod).is_some_and(is_first))?;
        self.0.dns.resolver(first.name())
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

    /// Removes the bridge and the packet rules if no pod uses them. For a server that ends without pods.
    ///
    /// # Errors
    /// What could not be removed.
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
        // Also keeps two of them apart.
        let file = self.node_file.lock().unwrap_or_else(PoisonError::into_inner);
        cidr.save(&file)?;
        self.builtins.default.set_node_cidr(cidr);
        self.cni.set_node_cidr(cidr);
        self.cni.generate(&cidr)
    }

    fn knows(&self, pod: &PodId) -> bool {
        !self.builtins.of_pod(pod).is_empty() || self.cni.knows(pod)
    }
}
