//! Programs of Kubernetes on a runtime's socket. [`programs`](crate::programs) builds them.
//!
//! ```text
//!   static pods ─────────────────────────────> Kubelet ──> crisp serve
//!   kubectl ──> kube-apiserver ──> etcd (Debian's)
//!                     └───── exec, attach, logs ──^
//! ```
//!
//! - [`Kubelet`] alone runs the static pods of a folder.
//! - [`Cluster`] is one node with an API server, and kubectl for it.

pub(crate) mod api_server;
mod cgroup_root;
mod cluster;
mod kubectl;
mod kubelet;

pub use cluster::Cluster;
pub use kubectl::{Kubectl, Transport};
pub use kubelet::{Kubelet, Runtime};
