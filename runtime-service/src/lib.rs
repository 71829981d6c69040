//! RuntimeService: containers in pods, their specs, exits, figures and events, and what a server that
//! starts finds of the one before it.
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
//! - [`RuntimeService`] is the gRPC service; [`RuntimeService::new`] recovers and follows.
//! - [`container::Container`] is what was asked (fixed) and a [`container::status_cell::StatusCell`] in which
//!   its [`container::state::State`] changes.
//! - [`convert`] is the border to the contract's messages, [`error`] the mapping to its codes.
//! - [`spec`] makes the OCI spec that the executor compiles.
//! - Beside the CRI there is the service Files, for `crisp cp`.
//! - [`Cause`] is why a stage of an operation failed.

#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod cause;
pub mod config;
pub mod container;
pub mod convert;
pub mod error;
pub mod events;
mod exits;
mod filter;
mod health;
pub mod layout;
mod metrics;
mod ops;
mod pod_watch;
mod recover;
mod rpc;
mod service_state;
pub mod spec;
pub mod stats;

use std::sync::Arc;

use crisp_image_service::ImageService;
use crisp_metrics::{Metrics, prometheus};
use crisp_sandbox::Pods;
use crisp_streaming::StreamServer;

pub use config::RuntimeConfig;

pub use crate::cause::Cause;
use crate::service_state::ServiceState;

/// Why a runtime service cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("containers cannot be recovered: {0}")]
    Recover(Cause),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
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
        // Before looking at what there is: events that come meanwhile are received then.
        let events = pods.events();
        let service = ServiceState::new(config, pods, images.store().clone(), streams, metrics)?;
        metrics::register(&service)?;
        recover::recover(&service).await.map_err(OpenError::Recover)?;
        for pod in service.pods.list() {
            pod_watch::follow(&service, &pod, pod_watch::Monitor::Known);
        }
        pod_watch::follow_pods(&service, events);
        Ok(Self { service })
    }

    pub(crate) fn service(&self) -> &Arc<ServiceState> {
        &self.service
    }
}
