//! Pod sandboxes: one network, IPC and UTS namespace set shared by containers.
//!
//! ```text
//!   Pods --- run / stop / remove / find / events
//!     |
//!    Pod --- PodConfig (never changes), PodStatus (one door), files in /etc
//!     |  \
//!     |   network: address, masquerade, host ports, CNI
//!     |
//!   MonitorLink ==== crisp-pod (one process per pod, see the crisp-monitor crate)
//! ```
//!
//! - [`Pods`] makes, finds and takes down pods; equal requests are one operation.
//! - [`PodConfig`] is what a pod is asked to be, checked before anything is made.
//! - [`Pod`] is one pod, [`PodState`] how far it is.
//! - [`link::MonitorLink`] talks to the pod's monitor, in which its containers live.
//! - [`PodError`] names the stage that failed, and what could not be undone.

#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod config;
mod error;
mod files;
mod layout;
mod lifecycle;
pub mod link;
pub mod network;
mod pod;
mod pods;
mod record;
pub mod spawn;
mod stage;
mod sysctl;

pub use config::{Dns, InvalidPod, NamespaceMode, PidMode, PodConfig, PodKey, PortMapping, Protocol};
pub use error::{PodError, Shared, StageCause, StageFailure};
pub use files::PodFiles;
pub use pod::{NotReady, Pod, PodState, PodStatus};
pub use pods::{FindError, PodEvent, Pods, SandboxConfig};
