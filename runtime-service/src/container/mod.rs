//! The server's containers: the fixed part ([`ContainerMetadata`]) and the changing part ([`Status`]).

pub mod config;
pub mod exec_cgroups;
pub mod exit;
pub(crate) mod kill_at;
pub mod signal;
pub mod state;
pub mod status;
pub mod table;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use crisp_executor::cgroup::{CgroupPath, JoinFds};
use crisp_executor::compile::Compiled;
use crisp_executor::ids::{ContainerId, PodId};
use crisp_executor::plan::{self, PidNamespace};
use crisp_image_service::store::Hold;
use crisp_image_service::{DiffId, Lease};
use crisp_operation::record::{self, Durability, Record};
use crisp_operation::{Cancel, StatusCell, StatusError};
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, watch};

use self::config::{ContainerConfig, Resources};
use self::exec_cgroups::ExecCgroups;
use self::signal::Signal;
use self::state::{Refusal, State};
use self::status::Status;
use crate::cdi::Edits;
use crate::layout::Folder;
use crate::stats::meter::Meters;

/// The part that is fixed at the creation of a container. Its record is `container.json`; a start needs only
/// this and the [`Status`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerMetadata {
    pub id: ContainerId,
    pub pod: PodId,
    pub config: ContainerConfig,
    pub image: ImageMetadata,
    pub user: User,
    pub pid: PidNamespace<ContainerId>,
    /// The mount points of the image's VOLUMEs, in the order of their folders.
    #[serde(default)]
    pub volumes: Vec<PathBuf>,
    /// The layers of the mounted images, bottom first, in the order of the mounts that have an image.
    #[serde(default)]
    pub mounted_images: Vec<Vec<DiffId>>,
    /// As [`ImageMetadata::reference`], of the mounted images. Empty in older records.
    #[serde(default)]
    pub mounted_references: Vec<String>,
    /// The edits of its CDI devices at its creation, except for their groups, which are in `user`.
    #[serde(default)]
    pub cdi: Edits,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Absolute. None: output is dropped.
    pub log_path: Option<PathBuf>,
    /// The parent of its own cgroup, needed when its pod is gone. None in older records.
    #[serde(default)]
    pub cgroup_parent: Option<CgroupPath>,
}

impl Record for ContainerMetadata {
    const KIND: &'static str = "container record";
}

/// Data about the image that the container keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMetadata {
    /// The image id: the digest of its configuration.
    pub id: String,
    /// A reference by digest where the image has one, for ContainerStatus.image_ref.
    pub reference: String,
    /// A tag of the image, or the client's name for it.
    pub name: String,
    /// Bottom first, as in the image's configuration, and layers that the store has added.
    pub diff_ids: Vec<DiffId>,
    pub stop_signal: Option<Signal>,
    #[serde(default)]
    pub process: ImageProcess,
}

/// The image's settings for the first process, used where the request has none.
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

impl User {
    /// Those that it is not in yet.
    pub fn add_groups(&mut self, groups: &[u32]) {
        for group in groups {
            if !self.groups.contains(group) {
                self.groups.push(*group);
            }
        }
    }
}

/// The layers of all images that a container uses.
#[derive(Debug)]
pub struct Leases {
    /// Of its root file system. None if some of its layers are missing.
    pub root: Option<Lease>,
    /// As [`ContainerMetadata::mounted_images`].
    pub mounted: Vec<Option<Lease>>,
    /// The existing layers of images whose lease is None.
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
    /// The common process settings of all execs in the container; compiled by the first exec.
    pub exec_process: Mutex<Option<Arc<plan::Process>>>,
    pub exec_cgroups: ExecCgroups,
    /// The stop signal has been sent.
    pub stop_signal_sent: AtomicBool,
    /// Locked while the remaining processes in its cgroup are killed.
    pub cleaning: Arc<tokio::sync::Mutex<()>>,
    /// Cancels the copy of files into the container, while it does not run.
    pub written_by: Mutex<Cancel>,
    pub meters: Meters,
}

impl Container {
    /// Must be called when its settings have changed.
    pub fn forget_exec_process(&self) {
        *self.exec_process.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

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
            exec_cgroups: ExecCgroups::default(),
            stop_signal_sent: AtomicBool::new(false),
            cleaning: Arc::default(),
            written_by: Mutex::default(),
            meters: Meters::default(),
        }
    }

    /// The present status, from memory.
    #[must_use]
    pub fn status(&self) -> Arc<Status> {
        self.status_cell.get()
    }

    /// A receiver of the present status and its changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Status>> {
        self.status_cell.subscribe()
    }

    /// Makes a planned change of the state. It is written to disk first and visible after that. Blocks.
    ///
    /// # Errors
    /// The refusal by `change`, or the disk's error; the state has not changed then.
    pub fn update_state(
        &self,
        change: impl Fn(&State) -> Result<State, Refusal>,
    ) -> Result<(), StatusError<Refusal>> {
        self.status_cell.update(|status| status.with_state(&change)).map(drop)
    }

    /// Records an event of the container. It is visible at once, and written to disk as soon as the disk
    /// accepts it. Returns the status before and after.
    ///
    /// # Errors
    /// The refusal by `change`.
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

    /// The signal that asks the container to end: its own setting, else the image's, else SIGTERM.
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

/// Parts of a start that were made before the start was requested.
#[derive(Debug)]
pub struct Prepared {
    pub parts: PreparedParts,
    /// One of the permits for prepared containers.
    pub permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
pub enum PreparedParts {
    /// For a container whose plan depends on the time of its start.
    RootAndCgroup {
        /// The root file system, as a detached mount.
        root: OwnedFd,
        cgroup: JoinFds,
        /// The limits of the cgroup, and the devices that it allows.
        resources: Option<Box<LinuxResources>>,
    },
    Plan(Box<PreparedPlan>),
}

/// Everything that a start sends to the monitor.
#[derive(Debug)]
pub struct PreparedPlan {
    pub compiled: Compiled,
    pub log: Option<OwnedFd>,
    /// The limits of the cgroup and of the process.
    pub resources: Resources,
}
