//! Real CNI plugins, for nodes that have a configuration for them.
//!
//! ```text
//!   /etc/cni/net.d  --directory-->  config (NetworkList)       what is to be run
//!                                        |
//!   pod  --capability-->  runtimeConfig  |
//!        --namespace--->  /run/netns/crisp-<id>
//!                                        v
//!                     attach: ADD, ADD, ...        detach: ..., DEL, DEL
//!                                        |
//!                                      exec          the only file that starts processes
//! ```
//!
//! Specification 0.3.0 to 1.1.0. A pod's record holds the configuration it was attached with and the result
//! it got, so that taking it away needs neither the configuration folder nor the namespace.

mod attach;
mod capability;
mod config;
mod detach;
mod directory;
mod exec;
mod health;
mod namespace;
mod record;
mod result;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crisp_executor::id::PodId;
use crisp_operation::record::Durability;
use tokio::task::spawn_blocking;

use self::directory::Directory;
use self::health::Health;
use self::record::CniRecord;
use super::host_ports::HeldPorts;
use super::record::{Loaded, RecordDir};
use super::{Attachment, NetworkConfig, NetworkError};

pub(super) use self::config::NetworkList;

/// Reads what ADD printed.
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
    bin_dirs: Vec<PathBuf>,
    /// Of every single plugin call.
    deadline: Duration,
    records: RecordDir,
    pods: Mutex<HashMap<PodId, CniRecord>>,
    /// Pods whose record cannot be used.
    lost: Mutex<BTreeSet<PodId>>,
    health: Arc<Health>,
    /// See [`NetworkConfig::cni_gc`].
    gc: bool,
}

impl Cni {
    /// Reads the records of attached pods.
    pub(super) fn open(config: &NetworkConfig) -> Result<Self, NetworkError> {
        let records = RecordDir::open(config.root_dir.join("cni"), Durability::PowerCut)?;
        let Loaded { records: known, lost } = records.load::<CniRecord>()?;
        Ok(Self {
            directory: Directory::new(config.cni_conf_dir.clone(), config.cni_replace_grace),
            bin_dirs: config.cni_bin_dirs.clone(),
            deadline: config.cni_deadline,
            records,
            pods: Mutex::new(known.into_iter().map(|r| (r.pod.clone(), r)).collect()),
            lost: Mutex::new(lost),
            health: Arc::new(Health::default()),
            gc: config.cni_gc,
        })
    }

    /// The network that the configuration folder asks for; `None` when it asks for none.
    pub(super) fn current(&self) -> Result<Option<Arc<NetworkList>>, NetworkError> {
        self.directory.current()
    }

    /// The pods of which it is not known what they have.
    pub(super) fn lost(&self) -> BTreeSet<PodId> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The pods attached.
    pub(super) fn pods(&self) -> Vec<PodId> {
        self.known().keys().cloned().collect()
    }

    /// Their host ports.
    pub(super) fn ports(&self) -> Vec<HeldPorts> {
        let of = |r: &CniRecord| HeldPorts::new(&r.pod, &r.namespace, &r.name, &r.ports);
        self.known().values().map(of).collect()
    }

    /// Whether there is something to detach.
    pub(super) fn knows(&self, pod: &PodId) -> bool {
        self.known().contains_key(pod)
    }

    /// What the pod was given.
    pub(super) fn attachment(&self, pod: &PodId) -> Option<Attachment> {
        self.known().get(pod)?.attachment.clone()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<PodId, CniRecord>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// On disk first, then in memory.
    async fn remember(&self, record: CniRecord) -> Result<(), NetworkError> {
        let records = self.records.clone();
        // A busy disk may take its time to make the record durable.
        let written = spawn_blocking(move || records.write(&record).map(|()| record)).await;
        let record = written.map_err(|_| NetworkError::Interrupted("writing the record"))??;
        self.known().insert(record.pod.clone(), record);
        Ok(())
    }

    fn forget(&self, pod: &PodId) -> Result<(), NetworkError> {
        self.records.remove(pod)?;
        self.known().remove(pod);
        Ok(())
    }
}
