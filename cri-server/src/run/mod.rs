//! `crisp run`: one Kubernetes Pod manifest, without a kubelet and without a server.
//!
//! ```text
//!  POD.yaml --manifest/--> Pod (validated; what is not supported is refused with its path)
//!      |
//!      v
//!  embedded.rs  a whole server inside this process, on folders of its own
//!      |
//!      v
//!  pod_run.rs   pull, init containers in order, containers with restarts, stop, remove
//!      |                     ^
//!      +-- cri/  Pod to CRI requests, as a kubelet would ask
//!      +-- output.rs  logs with the containers' names
//! ```
//!
//! It sends the same services the requests that a kubelet sends, so a pod behaves here as on a node.

pub mod command;
mod container_run;
mod context;
mod cri;
mod embedded;
mod log_rotation;
mod manifest;
mod notice;
mod output;
mod pod_remove;
mod pod_run;
mod pull;
mod restart;
mod run_as_non_root;
mod stop_request;
mod volumes;
mod wait;
