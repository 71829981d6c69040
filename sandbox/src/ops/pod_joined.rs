//! A pod that joins the network of another one.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use crisp_executor::ids::PodId;

use crate::config::PodConfig;
use crate::error::{PodCause, PodError};
use crate::namespace::NetworkMode;
use crate::service_state::ServiceState;

/// The configuration with what follows from the other pod: its host name, and the host's network if that is its
/// own.
///
/// # Errors
/// The other pod is not ready.
pub(super) fn resolve(service: &ServiceState, mut config: PodConfig) -> Result<PodConfig, PodError> {
    let NetworkMode::Joined(id) = &config.network else { return Ok(config) };
    let joined = service.table.get(id).ok_or_else(|| PodError::NoPodToJoin { id: id.clone() })?;
    joined.require_ready().map_err(PodError::PodToJoin)?;
    if config.hostname.is_empty() {
        config.hostname = joined.config.own_hostname().unwrap_or_default();
    }
    if joined.config.network == NetworkMode::Host {
        config.network = NetworkMode::Host;
    }
    Ok(config)
}

/// The network namespace of the pod: its monitor stays in it.
pub(super) fn network(service: &ServiceState, id: &PodId) -> Result<OwnedFd, PodCause> {
    let gone = || io::Error::new(io::ErrorKind::NotFound, format!("pod {id} has ended meanwhile"));
    let joined = service.table.get(id).ok_or_else(gone)?;
    let pid = joined.status().monitor_pid.ok_or_else(gone)?;
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    // While the monitor keeps the connection, its number has not been reused.
    let is_there = joined.ready_link().is_ok_and(|link| !link.is_closed());
    if is_there { Ok(namespace.into()) } else { Err(gone().into()) }
}

/// The addresses of the pod that is joined.
pub(super) fn addresses(service: &ServiceState, config: &PodConfig) -> Vec<IpAddr> {
    match &config.network {
        NetworkMode::Joined(id) => {
            service.table.get(id).map(|pod| pod.status().ips.clone()).unwrap_or_default()
        }
        NetworkMode::Pod | NetworkMode::Host => vec![],
    }
}
