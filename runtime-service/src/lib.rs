//! RuntimeService: containers in pods, their specs, exits, stats and events, and recovery after a restart of
//! the server.
//!
//! ```text
//!   gRPC ─> rpc ─convert─> ops (create, start, stop, remove, exec…) ─> executor: spec to plan
//!                           │ stages, undo          │                  sandbox: monitor link
//!                           v                       v                  image-service: layers
//!                     container (metadata, status) <─ exits <─ pod_watch <── monitors' and pods' events
//!                           │
//!                           └─> rpc ─convert─> status, lists, stats, events   (from memory)
//! ```
//!
//! - [`RuntimeService`] is the gRPC service; [`RuntimeService::new`] recovers containers and follows pods.
//! - [`container::Container`] is a fixed configuration and a [`container::status_cell::StatusCell`] in which
//! its [`container::state::State`] changes.
//! - [`convert`] is the border to the contract's messages, [`error`] the mapping to its codes.
//! - [`spec`] makes the OCI spec that the executor compiles.
//! - [`cdi`] finds devices that vendors describe in files.
//! - [`journal`] keeps events and failed operations across restarts.
//! - Services beside the CRI: Files, for `crisp cp`; Containers, for operations that people use; and
//! Diagnosis, for events, operations under way and the inventory of the machine.
//! - [`Cause`] is the cause of a failed stage.
//!

#![doc = include_str!("../CONFORMANCE.md")]
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod cause;
pub mod cdi;
pub mod container;
pub mod convert;
mod emitter;
pub mod error;
pub mod events;
mod exec_metrics;
mod exits;
mod filter;
mod followed;
mod health;
mod inventory;
pub mod journal;
pub mod layout;
mod log_limits;
mod log_once;
mod metrics;
mod notes;
mod ops;
mod pieces;
mod pod_metrics;
mod pod_watch;
mod recover;
mod rpc;
mod service_state;
mod set_aside;
pub mod spec;
pub mod stats;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crisp_image_service::ImageService;
use crisp_metrics::{Metrics, prometheus};
use crisp_operation::detached;
use crisp_sandbox::Pods;
use crisp_streaming::StreamServer;

pub use crate::cause::Cause;
use crate::error::RuntimeError;
use crate::journal::Journal;
pub use crate::log_limits::LogLimits;
use crate::service_state::ServiceState;

/// Time limit for commands that were hung up to print their last output and to end.
const HANGUP: Duration = Duration::from_secs(1);
/// Time limit for writing statuses that are not on disk yet.
const FLUSH: Duration = Duration::from_secs(5);

/// The reason why a runtime service cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("containers cannot be recovered: {0}")]
    Recover(Cause),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Settings of one service.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// The persistent folder, e.g. /var/lib/crisp.
    pub root: PathBuf,
    /// Folders with CDI specs; a later one takes precedence over an earlier one.
    pub cdi_spec_dirs: Vec<PathBuf>,
    pub live: LiveConfig,
}

/// Settings that can change while the service runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveConfig {
    /// From SIGHUP to SIGKILL for a command whose streaming client is gone.
    pub exec_grace: Duration,
    /// For the logs of containers that no kubelet made. None: they grow.
    pub log_limits: Option<LogLimits>,
}

/// The CRI RuntimeService. Clones are the same service.
#[derive(Clone)]
pub struct RuntimeService {
    service: Arc<ServiceState>,
}

impl RuntimeService {
    /// Finds the containers of an earlier server and follows all pods.
    ///
    /// # Errors
    /// Only when the folders themselves cannot be used: a single container never keeps the others
    /// from being served.
    pub async fn new(
        config: RuntimeConfig,
        pods: Pods,
        images: ImageService,
        streams: StreamServer,
        metrics: &Metrics,
    ) -> Result<Self, OpenError> {
        // Subscribed before existing pods are listed, so that no event is missed.
        let events = pods.events();
        let service = ServiceState::new(config, pods, images.store().clone(), streams, metrics)?;
        metrics::register(&service)?;
        notes::follow_operations(&service);
        recover::recover(&service).await.map_err(OpenError::Recover)?;
        for pod in service.pods.list() {
            pod_watch::follow(&service, &pod, pod_watch::Monitor::Known);
        }
        pod_watch::follow_pods(&service, events);
        Ok(Self { service })
    }

    /// Rotates logs of containers that no kubelet made, as [`LiveConfig::log_limits`] say, until the service ends.
    pub fn keep_logs_small(&self) {
        log_limits::keep(&self.service);
    }

    /// The settings in force.
    #[must_use]
    pub fn live_config(&self) -> LiveConfig {
        self.service.live_config()
    }

    /// Changes settings, for what begins from now on.
    pub fn reconfigure(&self, config: LiveConfig) {
        *self.service.live.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// Rotates the log of a running container now.
    ///
    /// # Errors
    /// There is no such container, or a stage failed.
    pub async fn rotate_log(&self, id: &str, files: u32) -> Result<(), RuntimeError> {
        let (service, container) = (self.service.clone(), self.service.container(id)?);
        // Not ended in the middle with its caller.
        detached(async move {
            let rotated = ops::log_rotate::rotate(&service, &container, files, ()).await;
            if rotated.is_err() && container.status().state.pid().is_some() {
                ops::log_reopen::reopen(&service, &container).await?;
            }
            rotated
        })
        .await
    }

    /// Hangs up streamed commands, and writes changes of containers that are not on disk yet, for a clean end
    /// of the server.
    pub async fn close(&self) {
        self.service.closing.cancel();
        // Commands that are longer about their end are left to their monitors, which kill them after their grace
        // time. Their output has no reader then.
        let _ = tokio::time::timeout(HANGUP, self.service.streamed_commands.write()).await;
        let containers = self.service.containers.all();
        let flush = move || {
            for container in containers {
                if let Err(error) = container.status_cell.flush() {
                    tracing::error!(container = %container.id(), %error, "what became of a container is lost");
                }
            }
        };
        // It has no result; a disk that hangs does not keep the server from ending.
        let _ = tokio::time::timeout(FLUSH, tokio::task::spawn_blocking(flush)).await;
        self.service.journal.close().await;
    }

    /// Events and failed operations, across restarts.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.service.journal
    }

    pub(crate) fn service(&self) -> &Arc<ServiceState> {
        &self.service
    }
}
