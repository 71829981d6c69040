//! Real CNI plugins, for nodes that have a configuration for them.
//!
//! ```text
//!   /etc/cni/net.d  --directory-->  config (NetworkList)       the plugins to run
//!                                        |
//!   pod  --capability-->  runtimeConfig  |
//!        --namespace--->  /run/netns/crisp-<id>
//!                                        v
//!   attach: ADD, ADD, ...   detach: ..., DEL, DEL   health: VERSION, STATUS   check: CHECK   collect: GC
//!                                        |
//!                               call: one plugin, one verb
//!                                        |
//!                               exec: the only file that starts processes
//! ```
//!
//! Specification 0.3.0 to 1.1.0. A pod's record has the configurations with which it was attached and the
//! results, so that a detach needs neither the configuration folder nor the namespace.

mod attach;
mod cache;
mod call;
mod capability;
mod check;
mod collect;
mod config;
mod detach;
mod directory;
mod exec;
mod generated;
mod health;
mod leftovers;
pub(crate) mod metrics;
mod namespace;
mod record;
mod report;
mod result;
mod strays;
mod template;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crisp_executor::ids::PodId;
use crisp_operation::record::Durability;
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use self::cache::ResultCache;
use self::collect::Attaching;
use self::directory::Directory;
use self::health::Health;
use self::leftovers::Leftovers;
use self::record::CniRecord;
use super::host_ports::HeldPorts;
use super::node_cidr::NodeCidr;
use super::record::{Loaded, RecordDir};
use super::{Attachment, NetworkConfig, NetworkError, NetworkMember};

pub(super) use self::attach::Join;
pub(super) use self::config::NetworkList;
pub(super) use self::detach::Detached;
pub use self::directory::{CniConfiguration, configurations as cni_configurations};
pub(crate) use self::namespace::{
    all as namespaces_with_paths, is_published as is_namespace, withdraw as withdraw_namespace,
};

/// Parses the output of ADD.
#[cfg(feature = "fuzz")]
pub(crate) fn read_result(stdout: &[u8]) {
    if let Ok(value) = result::read(stdout) {
        let _ = result::attachment(&value, "network", super::INTERFACE);
    }
}

/// CNI networking of one server.
#[derive(Debug)]
pub(super) struct Cni {
    directory: Directory,
    template: Option<PathBuf>,
    bin_dirs: Vec<PathBuf>,
    /// Time limit for every single plugin call.
    deadline: Duration,
    records: RecordDir,
    pods: Mutex<HashMap<PodId, CniRecord>>,
    /// Pods whose record cannot be used.
    lost: Mutex<BTreeSet<PodId>>,
    /// Pods that a plugin fails to detach.
    left: Leftovers,
    /// Pods of an earlier server; a plugin may still be running for them.
    inherited: Mutex<BTreeSet<PodId>>,
    cache: ResultCache,
    /// The node's pod CIDR from kubelet.
    node: Mutex<Option<NodeCidr>>,
    health: Arc<Health>,
    /// See [`NetworkConfig::cni_gc`].
    gc: bool,
    attaching: Attaching,
    /// Set once no plugin of an earlier server is in the verb GC.
    earlier: OnceCell<()>,
}

impl Cni {
    /// Reads the records of attached pods.
    pub(super) fn open(config: &NetworkConfig, node: Option<NodeCidr>) -> Result<Self, NetworkError> {
        let records = RecordDir::open(config.root_dir.join("cni"), Durability::PowerCut)?;
        let Loaded { records: known, lost } = records.load::<CniRecord>()?;
        let inherited = known.iter().map(|record| record.pod.clone()).chain(lost.clone()).collect();
        Ok(Self {
            directory: Directory::new(config.cni_conf_dir.clone(), config.cni_replace_grace),
            template: config.cni_conf_template.clone(),
            bin_dirs: config.cni_bin_dirs.clone(),
            deadline: config.cni_deadline,
            records,
            pods: Mutex::new(known.into_iter().map(|r| (r.pod.clone(), r)).collect()),
            lost: Mutex::new(lost),
            left: Leftovers::default(),
            inherited: Mutex::new(inherited),
            cache: ResultCache::in_folder(&config.cni_cache_dir),
            node: Mutex::new(node),
            health: Arc::new(Health::default()),
            gc: config.cni_gc,
            attaching: Attaching::default(),
            earlier: OnceCell::new(),
        })
    }

    /// The network in the configuration folder; `None` when there is none.
    pub(super) fn current(&self) -> Result<Option<Arc<NetworkList>>, NetworkError> {
        self.directory.current()
    }

    /// The network with that name, whether or not it is in force.
    pub(super) fn named(&self, name: &str) -> Result<Option<Arc<NetworkList>>, NetworkError> {
        self.directory.named(name)
    }

    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// All networks with a valid configuration.
    pub(super) fn all(&self) -> Result<Vec<NetworkList>, NetworkError> {
        self.directory.all()
    }

    /// The pods in a network.
    pub(super) fn members(&self, network: &str) -> Vec<NetworkMember> {
        let known = self.records();
        let joined = known.values().flat_map(|record| record.joined().map(move |joined| (record, joined)));
        let joined = joined.filter(|(_, joined)| joined.network.name == network);
        joined
            .map(|(record, joined)| NetworkMember {
                pod: record.pod.clone(),
                namespace: record.namespace.clone(),
                name: record.name.clone(),
                interface: joined.interface.clone(),
                ips: joined.attachment.as_ref().map(|a| a.ips.clone()).unwrap_or_default(),
                mac: joined.attachment.as_ref().and_then(|a| a.mac.clone()),
            })
            .collect()
    }

    /// Time limit for all calls of a detach from such a network; an attach needs twice that.
    pub(super) fn time_of(&self, network: &NetworkList) -> Duration {
        self.deadline * u32::try_from(network.plugins.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn set_node_cidr(&self, cidr: NodeCidr) {
        *self.node.lock().unwrap_or_else(PoisonError::into_inner) = Some(cidr);
    }

    fn node_cidr(&self) -> Option<NodeCidr> {
        *self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pods whose detach has failed repeatedly, with the reason.
    pub(super) fn leftovers(&self) -> Vec<(PodId, String)> {
        self.left.all()
    }

    /// Those whose detach must be tried again now.
    pub(super) fn due_leftovers(&self) -> Vec<PodId> {
        self.left.due(Instant::now())
    }

    /// Tries such a pod again soon, because another needs what it still has; returns the reason of its last
    /// failure, or None if it is no such pod.
    pub(super) fn hurry_leftover(&self, pod: &PodId) -> Option<String> {
        self.left.hurry(pod, Instant::now())
    }

    /// The pods whose resources are unknown.
    pub(super) fn lost(&self) -> BTreeSet<PodId> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The pods attached.
    pub(super) fn pods(&self) -> Vec<PodId> {
        self.records().keys().cloned().collect()
    }

    /// Their host ports.
    pub(super) fn ports(&self) -> Vec<HeldPorts> {
        let of = |r: &CniRecord| HeldPorts::new(&r.pod, &r.namespace, &r.name, &r.ports);
        self.records().values().map(of).collect()
    }

    /// Whether the pod has something to detach.
    pub(super) fn knows(&self, pod: &PodId) -> bool {
        self.records().contains_key(pod)
    }

    /// Whether the pod is completely attached.
    pub(super) fn attached(&self, pod: &PodId) -> bool {
        self.records().get(pod).is_some_and(|record| record.joined().all(|joined| joined.result.is_some()))
    }

    /// The attachments of the pod, one for each network.
    pub(super) fn attachments(&self, pod: &PodId) -> Vec<Attachment> {
        let known = self.records();
        known.get(pod).into_iter().flat_map(|r| r.joined().filter_map(|j| j.attachment.clone())).collect()
    }

    /// Whether the pod does not wait for its plugins any longer.
    pub(super) fn is_given_up(&self, pod: &PodId) -> bool {
        self.left.is_given_up(pod)
    }

    /// Time limit for detaching the pod: plugins of an earlier server, every DEL, and again without the
    /// namespace.
    pub(super) fn time_of_detach(&self, pod: &PodId) -> Duration {
        let recorded = self.records().get(pod).map(|r| r.joined().map(|j| self.time_of(&j.network)).sum());
        let once: Duration = recorded.unwrap_or_else(|| self.time_of_lost(pod));
        self.deadline + once * 2
    }

    /// Time limit for the network in force, from which a pod without a usable record is detached.
    fn time_of_lost(&self, pod: &PodId) -> Duration {
        let is_lost = self.lost().contains(pod);
        let network = is_lost.then(|| self.current().ok().flatten()).flatten();
        network.map_or(Duration::ZERO, |network| self.time_of(&network))
    }

    fn records(&self) -> MutexGuard<'_, HashMap<PodId, CniRecord>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records it on disk first, then in memory. With the first record a pod can be detached; those with results only
    /// tell the plugins more.
    async fn remember(&self, record: CniRecord) -> Result<(), NetworkError> {
        let records = self.records.clone();
        let is_first = !self.records().contains_key(&record.pod);
        let write = move || {
            let written = if is_first { records.write(&record) } else { records.rewrite(&record) };
            written.map(|()| record)
        };
        // A busy disk may take long to make the record durable.
        let written = spawn_blocking(write).await;
        let record = written.map_err(|_| NetworkError::Interrupted("writing the record"))??;
        self.records().insert(record.pod.clone(), record);
        Ok(())
    }

    fn forget(&self, pod: &PodId) -> Result<(), NetworkError> {
        self.records.remove(pod)?;
        self.records().remove(pod);
        Ok(())
    }
}
