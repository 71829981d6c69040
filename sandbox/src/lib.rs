//! Pod sandboxes: one network, IPC and UTS namespace set shared by containers.
//!
//! ```text
//!   Pods ──── ops/pod_run, pod_stop, pod_remove, pod_update, pod_recover, pod_watch
//!     │
//!    Pod ──── PodConfig (fixed), PodStatus (in a status cell), files in /etc
//!     │  \
//!     │   network: address, masquerade, host ports, CNI
//!     │
//!   MonitorLink ════ crisp-pod (one process per pod, see the crisp-monitor crate)
//!                        ^
//!     spawn ── fork server: a crisp-pod of the server itself, whose copies they are
//! ```
//!
//! - [`Pods`] makes, finds and removes pods; equal requests are one operation.
//! - [`PodConfig`] is a client's request, checked before anything is made.
//! - [`Pod`] is one pod, [`PodState`] its state; the drawing there has all transitions.
//! - [`PodEvent`] is an event of a pod.
//! - [`CgroupDriver`] makes the cgroups of pods; [`systemd`] has the drawing of one of the two.
//! - [`link::MonitorLink`] talks to the pod's monitor, in which its containers live.
//! - [`inventory`] lists the pods' things on the machine, each with its owner, and removes orphans.
//! - [`PodError`] names the failed stage, and the undo steps that failed.

#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

pub mod arguments;
mod config;
mod error;
mod fork_server;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod host_resolver;
pub mod inventory;
mod layout;
pub mod link;
mod namespace;
pub mod network;
mod ops;
mod pod;
mod pod_table;
mod pods;
mod service_state;
pub mod spawn;
mod sysctl;
pub mod systemd;
mod top_cgroup;

pub use config::{Dns, InvalidPod, PodConfig, PodKey, PortMapping, Protocol};
pub use error::{JoinError, PodCause, PodError, Shared, StageFailure};
pub use host_resolver::{host_dns, host_dns_of_pods};
pub use namespace::{NamespaceMode, NetworkMode, PidMode};
pub use ops::network_connect::ConnectError;
pub use pod::cgroups::CgroupDriver;
pub use pod::files::PodFiles;
pub use pod::resources::PodResources;
pub use pod::state::{PodState, PodStatus, Refusal};
pub use pod::{NotReady, Pod};
pub use pod_table::FindError;
pub use pods::Pods;
pub use service_state::{PodEvent, SandboxConfig};
