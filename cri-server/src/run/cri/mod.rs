//! Converts a Pod to CRI requests as kubelet does.

mod container;
mod dns;
mod extra;
mod pod;
mod resources;
mod security;

pub use container::{ContainerIdentity, container_config, log_path};
pub use dns::host_dns;
pub use pod::{PodIdentity, hosts_file, pod_config};
pub use resources::host_memory;
