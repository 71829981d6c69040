//! `crisp run`: Kubernetes manifests or an image, without a kubelet, and without a server or under one.
//!
//! ```text
//!  IMAGE and docker's options --image/--> a Pod
//!  POD.yaml, folder, - --manifest/--> Pods, ConfigMaps, Secrets, claims
//!      |                              (what is not supported is refused with its path)
//!      v
//!  foreground.rs, in a server of its own (embedded.rs);  detached.rs --gRPC--> supervise/, in crisp serve
//!      |
//!      v
//!  pod_run.rs   one attempt of a pod: images, volumes/, pod_start.rs; its end is pod_end.rs
//!  containers_run.rs   init containers in order, sidecars, containers
//!      |
//!      v
//!  container_run.rs    one container: restarts by policy, health/ (probes), action/ (hooks), container_stop.rs
//!      |                     ^
//!      +-- cri/  Pod to CRI requests, as kubelet makes them
//!      +-- environment.rs, pod_fields.rs  variables and the downward API
//!      +-- output.rs  logs with the containers' names
//!      +-- streams.rs of an image: this program's streams, a terminal too
//! ```
//!
//! It sends the same requests to the same services as kubelet, so a pod behaves here as on a node. Another
//! source of pods (a Compose file) makes Pod documents for [`manifest::from_documents`] and passes them to
//! [`foreground::run`], or one Pod to [`pod_run::once`].

mod action;
pub mod command;
mod container_find;
mod container_message;
mod container_mounts;
mod container_run;
mod container_stop;
mod containers_run;
mod context;
pub mod create;
mod credentials;
mod cri;
pub mod detached;
mod embedded;
mod environment;
mod foreground;
mod health;
mod health_status;
pub mod image;
mod log_rotation;
pub mod manifest;
mod output;
mod pod_end;
mod pod_fields;
mod pod_join;
mod pod_remove;
mod pod_run;
mod pod_start;
mod pull;
mod report;
mod restart;
mod run_as_non_root;
mod run_status;
mod stop_request;
mod streams;
pub mod supervise;
pub mod volumes;
mod wait;
mod words;
