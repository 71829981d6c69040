//! Containers as the server knows them: what was asked (fixed), what became of it (behind a status_cell).

pub mod config;
pub mod exit;
pub mod record;
pub mod signal;
pub mod state;
pub mod status_cell;
pub mod table;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use crisp_executor::cgroup::Group;
use crisp_executor::id::{ContainerId, PodId};
use crisp_executor::plan;
use crisp_image_service::{DiffId, Lease};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use self::config::ContainerConfig;
use self::signal::Signal;
use self::status_cell::{Status, StatusCell};
use crate::layout::Folder;
use crate::stats::Meters;

/// What is fixed when a container is created. Its record is `container.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerMetadata {
    pub id: ContainerId,
    pub pod: PodId,
    pub config: ContainerConfig,
    pub image: ImageMetadata,
    pub user: User,
    pub pid: PidChoice,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Absolute. None: output is dropped.
    pub log_path: Option<PathBuf>,
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
    /// Bottom first, as in the image's configuration.
    pub diff_ids: Vec<DiffId>,
    pub stop_signal: Option<Signal>,
}

/// Which PID namespace the container is born into, held against its pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidChoice {
    Own,
    Pod,
    Host,
    /// That of another container of the same pod.
    Target(ContainerId),
}

/// Who the first process is, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// One container.
#[derive(Debug)]
pub struct Container {
    pub metadata: ContainerMetadata,
    pub folder: Folder,
    pub status_cell: StatusCell,
    /// Keeps the layers from being collected; given back on removal.
    pub lease: Mutex<Option<Lease>>,
    /// What every exec in it has in common; made by the first.
    pub exec: Mutex<Option<Arc<plan::Process>>>,
    /// Marks of execs that ended while processes they left behind live on.
    pub exec_cgroups: Mutex<Vec<Group>>,
    /// The stop signal has been sent.
    pub stop_signal_sent: AtomicBool,
    pub meters: Meters,
}

impl Container {
    #[must_use]
    pub fn new(
        metadata: ContainerMetadata,
        folder: Folder,
        status_cell: StatusCell,
        lease: Option<Lease>,
    ) -> Self {
        Self {
            metadata,
            folder,
            status_cell,
            lease: Mutex::new(lease),
            exec: Mutex::default(),
            exec_cgroups: Mutex::default(),
            stop_signal_sent: AtomicBool::new(false),
            meters: Meters::default(),
        }
    }

    /// The status now, from memory.
    #[must_use]
    pub fn status(&self) -> Arc<Status> {
        self.status_cell.get()
    }

    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Status>> {
        self.status_cell.subscribe()
    }

    #[must_use]
    pub fn id(&self) -> &ContainerId {
        &self.metadata.id
    }

    /// What asks the container to end: its own setting, the image's, SIGTERM.
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
