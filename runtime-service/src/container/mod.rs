//! Containers as the server knows them: what is fixed ([`ContainerMetadata`]) and what changes
//! ([`Status`]).

pub mod config;
pub mod exit;
pub(crate) mod kill_at;
pub mod signal;
pub mod state;
pub mod status;
pub mod table;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use crisp_executor::cgroup::{CgroupPath, JoinFds};
use crisp_executor::ids::{ContainerId, PodId};
use crisp_executor::plan::{self, PidNamespace};
use crisp_image_service::store::Hold;
use crisp_image_service::{DiffId, Lease};
use crisp_operation::record::{self, Durability, Record};
use crisp_operation::{Cancel, StatusCell, StatusError};
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, watch};

use self::config::ContainerConfig;
use self::signal::Signal;
use self::state::{Refusal, State};
use self::status::Status;
use crate::cdi::Edits;
use crate::layout::Folder;
use crate::stats::meter::Meters;

/// What is fixed when a container is created. Its record is `container.json`; together with the [`Status`]
/// it is all that a container is started from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerMetadata {
    pub id: ContainerId,
    pub pod: PodId,
    pub config: ContainerConfig,
    pub image: ImageMetadata,
    pub user: User,
    pub pid: PidNamespace<ContainerId>,
    /// Where the image's VOLUMEs are mounted, in the order of their folders.
    #[serde(default)]
    pub volumes: Vec<PathBuf>,
    /// The layers of the images that are mounted, bottom first, in the order of the mounts that have one.
    #[serde(default)]
    pub mounted_images: Vec<Vec<DiffId>>,
    /// What its CDI devices were when it was created, but for their groups, which `user` has.
    #[serde(default)]
    pub cdi: Edits,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Absolute. None: output is dropped.
    pub log_path: Option<PathBuf>,
    /// The cgroup below which its own is, also when its pod is not known any more. None in older records.
    #[serde(default)]
    pub cgroup_parent: Option<CgroupPath>,
}

impl Record for ContainerMetadata {
    const KIND: &'static str = "container record";
}

/// What a container keeps of its image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMetadata {
    /// The image id: the digest of its configuration.
    pub id: String,
    /// A reference by digest where the image has one, for ContainerStatus.image_ref.
    pub reference: String,
    /// A tag of the image, or what the client called it.
    pub name: String,
    /// Bottom first, as in the image's configuration, with those that the store has made for it.
    pub diff_ids: Vec<DiffId>,
    pub stop_signal: Option<Signal>,
    #[serde(default)]
    pub process: ImageProcess,
}

/// What the image sets for the first process where the request sets nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageProcess {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    pub working_dir: Option<String>,
}

/// The user of the first process, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups, in the order: primary, requested, the image's.
    pub groups: Vec<u32>,
    #[serde(default)]
    pub home: String,
}

/// The layers of all images that a container uses.
#[derive(Debug)]
pub struct Leases {
    /// Of its root file system. None: some of it are missing.
    pub root: Option<Lease>,
    /// As [`ContainerMetadata::mounted_images`].
    pub mounted: Vec<Option<Lease>>,
    /// What is there of the layers of those that are None.
    pub held: Vec<Hold>,
}

/// One container.
#[derive(Debug)]
pub struct Container {
    pub metadata: ContainerMetadata,
    pub folder: Folder,
    pub status_cell: StatusCell<Status>,
    /// Keep the layers in the store until the container is removed.
    pub leases: Mutex<Option<Leases>>,
    pub prepared: Mutex<Option<Prepared>>,
    /// What all execs in the container share; compiled by the first one.
    pub exec_process: Mutex<Option<Arc<plan::Process>>>,
    /// The exec cgroups that this server has made, by number. True: a command uses it.
    pub exec_cgroups: Mutex<BTreeMap<u32, bool>>,
    /// The stop signal has been sent.
    pub stop_signal_sent: AtomicBool,
    /// Locked while what the first process left in its cgroup is killed.
    pub cleaning: Arc<tokio::sync::Mutex<()>>,
    /// Ends the copy of files into the container, while it does not run.
    pub written_by: Mutex<Cancel>,
    pub meters: Meters,
}

impl Container {
    #[must_use]
    pub fn new(metadata: ContainerMetadata, status: Status, folder: Folder, leases: Option<Leases>) -> Self {
        let path = folder.status();
        let write = move |status: &Status| match status.before_removal() {
            Some(before) => record::write(&path, &before, Durability::Process),
            None => record::write(&path, status, Durability::Process),
        };
        Self {
            metadata,
            folder,
            status_cell: StatusCell::new(status, write),
            leases: Mutex::new(leases),
            prepared: Mutex::default(),
            exec_process: Mutex::default(),
            exec_cgroups: Mutex::default(),
            stop_signal_sent: AtomicBool::new(false),
            cleaning: Arc::default(),
            written_by: Mutex::default(),
            meters: Meters::default(),
        }
    }

    /// The status now, from memory.
    #[must_use]
    pub fn status(&self) -> Arc<Status> {
        self.status_cell.get()
    }

    /// A receiver of the status now and of its changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Status>> {
        self.status_cell.subscribe()
    }

    /// Makes a planned change of the state: on disk first, visible after. Blocks.
    ///
    /// # Errors
    /// `change`'s refusal, or the disk's; the state has not changed then.
    pub fn update_state(
        &self,
        change: impl Fn(&State) -> Result<State, Refusal>,
    ) -> Result<(), StatusError<Refusal>> {
        self.status_cell.update(|status| status.with_state(&change)).map(drop)
    }

    /// Notes what has happened to the container: visible at once, on disk as soon as that accepts it.
    /// Returns the status before and after.
    ///
    /// # Errors
    /// `change`'s refusal.
    pub fn observe(
        &self,
        change: impl FnOnce(&State) -> Result<State, Refusal>,
    ) -> Result<(Arc<Status>, Arc<Status>), Refusal> {
        self.status_cell.observe(|status| status.with_state(change))
    }

    #[must_use]
    pub fn id(&self) -> &ContainerId {
        &self.metadata.id
    }

    /// The signal that asks the container to end: its own setting, the image's, SIGTERM.
    #[must_use]
    pub fn stop_signal(&self) -> Signal {
        self.metadata.config.stop_signal.or(self.metadata.image.stop_signal).unwrap_or(Signal::TERM)
    }

    /// The name that is unique while the container exists.
    #[must_use]
    pub fn name(&self) -> table::Name {
        table::Name::new(&self.metadata.pod, &self.metadata.config)
    }
}

/// Made before the start was requested.
#[derive(Debug)]
pub struct Prepared {
    /// The root file system, as a detached mount.
    pub root: OwnedFd,
    pub cgroup: JoinFds,
    /// The limits of the cgroup, and the devices that it allows.
    pub resources: Option<LinuxResources>,
    /// Of those that may be prepared.
    pub permit: OwnedSemaphorePermit,
}
