//! Programs of Kubernetes, built from its public Go module, on a machine's socket.
//!
//! ```text
//!   static pods ─────────────────────────────> Kubelet ──> crisp serve
//!   kubectl ──> kube-apiserver ──> etcd (Debian's)
//!                     └───── exec, attach, logs ──^
//! ```
//!
//! - [`Kubelet`] alone runs the static pods of a folder.
//! - [`Cluster`] is one node with an API server, and kubectl for it.
//! - [`build`] makes the programs, once per target folder: it takes minutes when Go has not built them
//!   before.

mod api_server;
mod cgroup_root;
mod cluster;
mod kubectl;
mod kubelet;
mod programs;

pub use cluster::Cluster;
pub use kubectl::{Kubectl, Transport};
pub use kubelet::Kubelet;
pub use programs::{ALL, KUBELET, Program, build, can_build};
