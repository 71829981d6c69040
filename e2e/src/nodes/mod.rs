//! A cluster of two nodes on one machine, which is left as it was.
//!
//! ```text
//!  host ── unshare ──> hub: a network with the bridge `nodes` (10.77.0.1), and the control plane
//!                       │   etcd, kube-apiserver, kube-controller-manager, kube-scheduler, docker-registry
//!                       ├── node1 (10.77.0.11)   network, mount, PID, UTS, IPC and cgroup namespaces of its own
//!                       └── node2 (10.77.0.12)   crisp serve, kubelet; pods: flannel, kube-proxy, CoreDNS
//! ```
//!
//! - [`host`] starts the hub, and compares the machine before and after.
//! - [`checks`] is the hub: it makes the nodes and tests the cluster.
//! - [`node::Node`] is one node, which can be rebooted; [`init`] is its first process.
//! - [`enter`] moves a process into a node.

mod cgroups;
pub mod checks;
mod control_plane;
pub mod enter;
pub mod host;
mod images;
pub mod init;
mod interrupted;
mod leftovers;
mod node;
mod objects;
mod report;
mod snapshot;
mod sysctls;
