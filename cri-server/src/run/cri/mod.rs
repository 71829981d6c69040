//! A Pod as CRI requests, as a kubelet would make them.

mod container;
mod dns;
mod pod;
mod resources;
mod security;

pub use container::{ContainerIdentity, container_config};
pub use dns::host_dns;
pub use pod::{PodIdentity, hosts_file, pod_config};
