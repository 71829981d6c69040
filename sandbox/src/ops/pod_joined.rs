//! A pod that joins the network of another one, which may have joined itself.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crisp_executor::ids::PodId;

use crate::config::PodConfig;
use crate::error::{JoinError, PodCause};
use crate::namespace::NetworkMode;
use crate::pod::Pod;
use crate::pod::resolv_conf::NetworkDns;
use crate::pod::state::PodState;
use crate::service_state::ServiceState;

/// Longer chains are those of a damaged record.
const MOST: usize = 100;

/// The configuration with what follows from the other pod: its host name, and the host's network if that is its
/// own.
///
/// # Errors
/// The other pod, or the one that it has joined itself, is not ready.
pub(super) fn resolve(service: &ServiceState, mut config: PodConfig) -> Result<PodConfig, JoinError> {
    let NetworkMode::Joined(id) = &config.network else { return Ok(config) };
    let owner = owner(service, id)?;
    if config.hostname.is_empty() {
        config.hostname = owner.config.own_hostname().unwrap_or_default();
    }
    if owner.config.network == NetworkMode::Host {
        config.network = NetworkMode::Host;
    }
    Ok(config)
}

/// The ready pod whose own network this pod has in the end.
pub(crate) fn owner(service: &ServiceState, id: &PodId) -> Result<Arc<Pod>, JoinError> {
    let mut id = id.clone();
    for _ in 0..MOST {
        let pod = service.table.get(&id).ok_or_else(|| JoinError::Unknown { id: id.clone() })?;
        // A silent one very likely runs.
        if !matches!(pod.status().state, PodState::Unknown { .. }) {
            pod.require_ready()?;
        }
        match &pod.config.network {
            NetworkMode::Pod | NetworkMode::Host => return Ok(pod),
            NetworkMode::Joined(other) => id = other.clone(),
        }
    }
    Err(JoinError::Unknown { id })
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

/// Writes the files in /etc: those of the pod that has the network, from its configuration. Its own files are not
/// read, because its containers write to them.
pub(super) fn write_names(service: &ServiceState, pod: &Pod, id: &PodId) -> io::Result<()> {
    let owner = owner(service, id).map_err(io::Error::other)?;
    let (files, addresses) = (pod.files(), owner.status().ips.clone());
    files.write_names(&pod.config)?;
    let names = [owner.config.own_hostname(), pod.config.own_hostname()];
    files.write_hosts_of(&names, &addresses)?;
    let mut dns = pod.config.dns.clone();
    if dns == Default::default() {
        dns = owner.config.dns.clone();
    } else if dns.servers.is_empty() {
        dns.servers.clone_from(&owner.config.dns.servers);
    }
    let config = &PodConfig { dns, ..pod.config.clone() };
    let (resolver, given) = (service.networks.resolver(&owner.id), service.networks.given_dns(&owner.id));
    files.write_resolv_conf(config, &NetworkDns { resolver, given })
}

/// The addresses of the pod that is joined.
pub(super) fn addresses(service: &ServiceState, config: &PodConfig) -> Result<Vec<IpAddr>, PodCause> {
    match &config.network {
        NetworkMode::Joined(id) => {
            let owner = owner(service, id).map_err(io::Error::other)?;
            Ok(owner.status().ips.clone())
        }
        NetworkMode::Pod | NetworkMode::Host => Ok(vec![]),
    }
}

/// Takes its addresses, which other pods may get from now on, from the pods that have joined it.
pub(super) fn forget_addresses(service: &ServiceState, id: &PodId) {
    let mut ended = vec![id.clone()];
    let pods = service.table.list();
    // A pod joins one that is older.
    for pod in &pods {
        let NetworkMode::Joined(joined) = &pod.config.network else { continue };
        if ended.contains(joined) {
            ended.push(pod.id.clone());
            if let Err(error) = pod.status.observe(|status| status.without_addresses()) {
                tracing::debug!(pod = %pod.id, %error, "its addresses stay in its record");
            }
        }
    }
}
