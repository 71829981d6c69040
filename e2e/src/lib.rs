//! Tests Crisp as a user does: the built `crisp` binary on temporary folders, a real docker-registry with
//! images that are built here, and the k8s-cri client.
//!
//! ```text
//!  test --k8s-cri--> crisp serve (target/release/crisp) --HTTP--> docker-registry
//!    |                  root, state, bridge, pool of its own          images pushed by the test
//!    +-- Machine::close(): stops it all, then looks for anything left behind
//! ```
//!
//! - [`Machine`]: one server with its surroundings; many can run at the same time.
//! - [`Registry`]: a docker-registry process, and pushing to it.
//! - [`Image`]: builds an image.
//! - [`bundle::Bundle`]: an OCI bundle for `crisp oci`.
//! - [`collector::Collector`]: receives the traces of a server.
//! - [`request`]: CRI requests with the fields that every test needs.
//! - [`session`]: exec, attach and port-forward over each protocol.
//! - [`pod_server::PodServer`]: a server of the test in a pod's network.
//! - [`nodes`]: a cluster of nodes, for `e2e/cluster.sh`.
//! - [`leak`]: finds everything that must be gone at the end.

pub mod bench;
pub mod bundle;
pub mod client;
pub mod collector;
pub mod containerd;
pub mod exposition;
pub mod http;
pub mod image;
pub mod kubernetes;
pub mod lab;
pub mod leak;
pub mod limited;
pub mod link;
pub mod machine;
pub mod nodes;
pub mod pod_server;
pub mod programs;
pub mod prometheus;
pub mod registry;
pub mod request;
pub mod scenario;
pub mod session;
pub mod spdy;
pub mod standalone;
pub mod terminal;
pub mod websocket;

pub use client::Client;
pub use crisp_skip::needs;
pub use image::{Compression, Image, Layer};
pub use lab::{Lab, says};
pub use machine::{Machine, Setup};
pub use registry::{Registry, free_port};

/// Any failure, as text.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A failure in the surroundings of a test; the text names the cause.
pub type Result<T, E = Error> = std::result::Result<T, E>;
