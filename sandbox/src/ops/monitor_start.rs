//! The part of making a pod that is the same for every network: files, cgroup, monitor, its namespaces. All of
//! it runs on one thread, which is woken by the fork server and by the monitor directly.
//!
//! ```text
//!  this thread   files, v2 cgroup --request--> v1 cgroups <--pid-- OpenPod --> names <--opened-- network
//!  fork server                        '-- clone ------------'         |                 |
//!  monitor                                   '------- starts ---------'-- namespaces ---'
//! ```

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crisp_executor::cgroup::{CgroupPath, JoinFds, Mode};
use crisp_metrics::trace;
use crisp_operation::record::private_folder;
use crisp_operation::{Interrupted, Steps};
use tokio::runtime::Handle;

use super::pod_joined;
use crate::config::PodConfig;
use crate::error::{PodCause, StageFailure};
use crate::link::{MonitorLink, OpenPod, PodNetwork};
use crate::namespace::{NamespaceMode, NetworkMode, PidMode};
use crate::pod::Pod;
use crate::service_state::ServiceState;
use crate::spawn::{self, Reaper, SpawnError, Spawning};
use crate::sysctl;

pub(super) const FILES: Duration = Duration::from_secs(10);
pub(super) const MONITOR: Duration = Duration::from_secs(10);
const SHM_BYTES: u64 = 64 << 20;

/// A monitor that has opened its pod.
pub(super) struct Started {
    pub(super) link: MonitorLink,
    pub(super) pid: i32,
    /// None on the host's network, and once it was attached.
    pub(super) network: Option<PodNetwork>,
    /// Whether the files that need no address were written. A failure is one of the commit.
    pub(super) names: io::Result<()>,
    /// Dropped last: until then no other thread wakes up for it.
    pub(super) _reaper: Reaper,
}

/// Starts the monitor and lets it open the pod. Folders and record come first: from then on, everything that a
/// crash leaves has an owner. `has_files` tells that these are there.
pub(super) fn start(
    service: &ServiceState,
    pod: &Pod,
    has_files: bool,
    steps: &Steps<PodCause>,
) -> Result<Started, StageFailure> {
    if !has_files {
        start_files(service, pod, steps)?;
    }
    let (mut cgroup, spawning) = steps.step("cgroup", || create_cgroup(service, pod))?;
    let (pid, reaper) = steps.step("monitor", || Ok(spawning?.finish(&mut cgroup)?))?;
    let mut names = Ok(());
    let open = || open_pod(service, pod, pid, cgroup, || names = write_names(service, pod), steps);
    let (link, network) = steps.step_within("open", MONITOR, open)?;
    Ok(Started { link, pid, network, names, _reaper: reaper })
}

/// Before anything is made: a host port in use would make all of it useless.
pub(super) fn start_files(
    service: &ServiceState,
    pod: &Pod,
    steps: &Steps<PodCause>,
) -> Result<(), StageFailure> {
    let config = &pod.config;
    if config.network == NetworkMode::Pod {
        let name = format!("{}/{}", config.namespace, config.name);
        let reserve = || Ok(service.networks.reserve_ports(&pod.id, &name, &config.port_mappings)?);
        steps.step("host ports", reserve)?;
    }
    steps.step("files", || write_files(service, pod))
}

fn write_files(service: &ServiceState, pod: &Pod) -> Result<(), PodCause> {
    private_folder(&service.layout.pod_root(&pod.id))?;
    private_folder(&service.layout.exits(&pod.id))?;
    pod.status.save()?;
    if let Some(folder) = &pod.config.log_directory {
        std::fs::create_dir_all(folder)?;
    }
    Ok(())
}

/// Writes the files in /etc that contain no address of the pod.
fn write_names(service: &ServiceState, pod: &Pod) -> io::Result<()> {
    let (files, config) = (pod.files(), &pod.config);
    match &config.network {
        NetworkMode::Pod => files.write_names(config),
        NetworkMode::Host => files.write_names(config).and_then(|()| files.write_hosts(config, &[])),
        NetworkMode::Joined(of) => pod_joined::write_names(service, pod, of),
    }
}

/// The start of the monitor, whose failure is not one of its cgroup.
type Begun<'a> = Result<Spawning<'a>, SpawnError>;

/// Makes the pod's own cgroup, and begins to start the monitor as soon as its v2 cgroup is there: the monitor
/// joins the others later. If a later part fails, what was begun ends when it is dropped.
fn create_cgroup<'a>(service: &'a ServiceState, pod: &Pod) -> Result<(JoinFds, Begun<'a>), PodCause> {
    let path = pod.own_cgroup()?;
    if let Some(scope) = pod.scope() {
        let cgroup = service.cgroups.create_without_controllers(scope, &path)?.join()?;
        let begun = begin(service, pod, &cgroup);
        return Ok((cgroup, begun));
    }
    let mut cgroup = service.cgroups.create_v2_for_supervisor(&path)?.join()?;
    let begun = begin(service, pod, &cgroup);
    cgroup.v1_tasks = create_v1_cgroups(service, &path)?;
    Ok((cgroup, begun))
}

fn create_v1_cgroups(service: &ServiceState, path: &CgroupPath) -> Result<Vec<OwnedFd>, PodCause> {
    match service.cgroups.mode() {
        Mode::V2 => Ok(vec![]),
        Mode::V1 | Mode::Hybrid => Ok(service.cgroups.create_for_supervisor(path)?.join_v1()?),
    }
}

fn begin<'a>(service: &'a ServiceState, pod: &Pod, cgroup: &JoinFds) -> Begun<'a> {
    let folder = service.layout.pod_state(&pod.id);
    let network = pod.config.network == NetworkMode::Pod && pod.config.user.is_none();
    spawn::begin(&service.monitor, &pod.id, &folder, cgroup, network)
}

/// Lets the monitor open the pod. `meanwhile` runs while it works.
fn open_pod(
    service: &ServiceState,
    pod: &Pod,
    pid: i32,
    cgroup: JoinFds,
    meanwhile: impl FnOnce(),
    steps: &Steps<PodCause>,
) -> Result<(MonitorLink, Option<PodNetwork>), PodCause> {
    let exits: OwnedFd = File::open(service.layout.exits(&pod.id))?.into();
    let host_ports = service.networks.port_sockets(&pod.id, 0)?;
    let of_open = host_ports.len();
    let request = open_request(service, &pod.config, cgroup, (exits, host_ports))?;
    let socket = service.layout.socket(&pod.id);
    let _wait = steps.waits_for("the pod's monitor (open pod)");
    let begun = std::time::Instant::now();
    let waits = || !steps.cancel().is_cancelled() && begun.elapsed() < MONITOR;
    let span = trace::client_span(|| "monitor: open pod".to_owned());
    let (link, opened) = MonitorLink::open_fresh(&socket, (&pod.id, pid), request, meanwhile, waits)?;
    // Undo lets the monitor end itself, whatever it has answered.
    pod.set_link(link.clone());
    match span.done(opened)? {
        Some(opened) => {
            hold_more_ports(service, pod, &link, of_open)?;
            Ok((link, opened.network))
        }
        None => {
            steps.cancel().check()?;
            Err(Interrupted::Deadline { after: MONITOR }.into())
        }
    }
}

/// Gives the monitor the sockets of host ports for which the request to open had no room: of hundreds of ports.
fn hold_more_ports(
    service: &ServiceState,
    pod: &Pod,
    link: &MonitorLink,
    of_open: usize,
) -> Result<(), PodCause> {
    let mut held = of_open;
    while held > 0 {
        let more = service.networks.port_sockets(&pod.id, held)?;
        if more.is_empty() {
            break;
        }
        held += more.len();
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        runtime.block_on(link.hold_ports(more))?;
    }
    Ok(())
}

fn open_request(
    service: &ServiceState,
    config: &PodConfig,
    cgroup: JoinFds,
    (exits, host_ports): (OwnedFd, Vec<OwnedFd>),
) -> Result<OpenPod, PodCause> {
    let joined_network = match &config.network {
        NetworkMode::Joined(other) => Some(pod_joined::network(service, other)?),
        NetworkMode::Pod | NetworkMode::Host => None,
    };
    Ok(OpenPod {
        network: config.network == NetworkMode::Pod,
        joined_network,
        ipc: config.ipc == NamespaceMode::Pod,
        hostname: config.own_hostname(),
        shared_pid: config.pid == PidMode::Pod,
        shm_bytes: SHM_BYTES,
        sysctls: sysctls(service, config),
        exits,
        cgroup_v2: cgroup.v2,
        cgroup_v1_tasks: cgroup.v1_tasks,
        user: config.user.clone(),
        host_ports,
    })
}

/// Paths and values: the requested ones, and on a network of the pod's own the defaults that they do not
/// replace.
fn sysctls(service: &ServiceState, config: &PodConfig) -> Vec<(String, String)> {
    let requested = config.sysctls.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let at_path = |(name, value): (&str, &str)| (sysctl::path(name), value.to_owned());
    if config.network != NetworkMode::Pod {
        return requested.map(at_path).collect();
    }
    let of_network = service.networks.pod_sysctls(&config.annotations);
    let defaults = sysctl::network_defaults(config.user.as_ref());
    let defaults =
        defaults.iter().map(|(name, value)| (*name, value.as_str())).chain(of_network.iter().copied());
    let defaults = defaults.filter(|(name, _)| !config.sysctls.contains_key(*name));
    defaults.chain(requested).map(at_path).collect()
}
