//! `crisp run`: one Kubernetes Pod manifest, without a kubelet and without a server.
//!
//! ```text
//!  POD.yaml --manifest/--> Pod (validated; what is not supported is refused with its path)
//!      |
//!      v
//!  embedded.rs  a whole server inside this process, on folders of its own
//!      |
//!      v
//!  life.rs      pull, init containers in order, containers with restarts, stop, remove
//!      |                     ^
//!      +-- cri/  Pod to CRI requests, as a kubelet would ask
//!      +-- output.rs  logs with the containers' names
//! ```
//!
//! It plays the kubelet's part towards the same services that a kubelet talks to, so a pod behaves here as it
//! does on a node.

pub mod command;
mod cri;
mod embedded;
mod life;
mod manifest;
mod output;
mod pull;
mod restart;
mod supervise;
mod volumes;
mod wait;
