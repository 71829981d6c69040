//! RuntimeService: containers in pods, their specs, exits, figures and events, and what a server that
//! starts finds of the one before it.
//!
//! ```text
//!   gRPC ─> rpc ─convert─> ops (create, start, stop, remove, exec…) ─> executor: spec to plan
//!                           │ stages, undo          │                  sandbox: monitor link
//!                           v                       v                  image-service: layers
//!                     container (facts, door) <── exits <── monitors' events
//!                           │
//!                           └─> rpc ─convert─> status, lists, stats, events   (from memory)
//! ```
//!
//! - [`RuntimeService`] is the gRPC service; [`RuntimeService::new`] recovers and follows.
//! - [`container::Container`] is what was asked (fixed) and a [`container::door::Door`] through which
//!   its [`container::state::State`] changes.
//! - [`convert`] is the border to the contract's messages, [`error`] the mapping to its codes.
//! - [`spec`] makes the OCI spec that the executor compiles.
//! - [`stage::Failure`] names the stage that failed, and what could not be undone.

mod clock;
pub mod config;
pub mod container;
pub mod convert;
mod core;
pub mod error;
pub mod events;
mod exits;
mod filter;
mod gauges;
mod join;
pub mod layout;
mod ops;
mod recover;
mod rpc;
pub mod spec;
pub mod stage;
pub mod stats;

use std::sync::Arc;

use crisp_image_service::ImageService;
use crisp_metrics::{Metrics, prometheus};
use crisp_sandbox::Pods;

pub use config::{CgroupDriver, RuntimeConfig};

use crate::core::Core;
use crate::stage::Cause;

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
    core: Arc<Core>,
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
        metrics: &Metrics,
    ) -> Result<Self, OpenError> {
        // Before looking at what there is: what comes meanwhile is then told.
        let events = pods.events();
        let core = Core::new(config, pods, images.store().clone(), metrics)?;
        gauges::register(&core)?;
        recover::recover(&core).await.map_err(OpenError::Recover)?;
        for pod in core.pods.list() {
            exits::follow(&core, &pod);
        }
        exits::follow_pods(&core, events);
        Ok(Self { core })
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }
}
