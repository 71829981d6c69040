//! Readings of containers and pods.

use std::sync::{Arc, PoisonError};

use crisp_executor::cgroup::{CgroupPath, Cgroups, Stats};
use crisp_sandbox::Pod;
use crisp_sandbox::network::InterfaceCounters;

use super::rate::CpuMeter;
use super::writable::Usage;
use crate::clock;
use crate::container::Container;
use crate::container::state::State;
use crate::core::{Core, cgroup_path};

/// The name of a pod's interface, with the built-in network and by CNI's own convention.
const DEFAULT_INTERFACE: &str = "eth0";

/// One container at one moment.
#[derive(Debug, Clone)]
pub struct ContainerReading {
    pub container: Arc<Container>,
    /// None: it does not run.
    pub cgroup: Option<Stats>,
    pub nano_cores: Option<u64>,
    pub writable: Option<Usage>,
}

/// One pod at one moment.
#[derive(Debug, Clone)]
pub struct PodReading {
    pub pod: Arc<Pod>,
    pub cgroup: Option<Stats>,
    pub nano_cores: Option<u64>,
    pub network: Option<Network>,
    pub containers: Vec<ContainerReading>,
}

/// Interface counters of a pod.
#[derive(Debug, Clone)]
pub struct Network {
    /// Nanoseconds since 1970.
    pub at: i64,
    pub default: Option<(String, InterfaceCounters)>,
    pub others: Vec<(String, InterfaceCounters)>,
}

/// Takes a reading of a container.
pub async fn container(core: &Arc<Core>, container: &Arc<Container>) -> ContainerReading {
    let running = matches!(container.status().state, State::Running { .. });
    let path =
        core.pod_of(container).filter(|_| running).and_then(|pod| cgroup_path(&pod, container.id()).ok());
    let cgroup = read_kept(core, container, path);
    let nano_cores = cgroup.as_ref().and_then(|stats| rate(&container.meters.cpu, stats));
    let writable = container.meters.writable.usage(&container.folder.upper()).await;
    ContainerReading { container: container.clone(), cgroup, nano_cores, writable }
}

/// Takes a reading of a pod and of its containers.
pub async fn pod(core: &Arc<Core>, pod: &Arc<Pod>) -> PodReading {
    let mut containers = Vec::new();
    for one in core.containers.of_pod(&pod.id) {
        if matches!(one.status().state, State::Running { .. }) {
            containers.push(container(core, &one).await);
        }
    }
    let cgroup = if has_own_parent(pod) { read(&core.cgroups, pod.cgroup_parent()) } else { None };
    let nano_cores = match &cgroup {
        Some(_) => containers.iter().map(|c| c.nano_cores).sum(),
        None => None,
    };
    PodReading { pod: pod.clone(), cgroup, nano_cores, network: network(pod), containers }
}

/// Whether the cgroup above the containers holds this pod alone. Kubelet makes one per pod and puts
/// the uid into its name; others may give several pods the same one.
fn has_own_parent(pod: &Pod) -> bool {
    let Some(parent) = &pod.config.cgroup_parent else { return true };
    let plain = |text: &str| text.replace(['-', '_'], "");
    !pod.config.uid.is_empty() && plain(parent.name()).contains(&plain(&pod.config.uid))
}

/// `path` is None for a container that does not run: its files are closed.
fn read_kept(core: &Core, container: &Container, path: Option<CgroupPath>) -> Option<Stats> {
    let mut kept = container.meters.cgroup.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(path) = path else {
        *kept = None;
        return None;
    };
    if kept.is_none() {
        *kept = core.cgroups.open(&path).and_then(|cgroup| cgroup.stats_reader()).ok();
    }
    let stats = kept.as_mut()?.read().ok();
    if stats.is_none() {
        *kept = None;
    }
    stats
}

fn read(cgroups: &Cgroups, path: &CgroupPath) -> Option<Stats> {
    cgroups.open(path).and_then(|cgroup| cgroup.stats()).ok()
}

fn rate(meter: &std::sync::Mutex<CpuMeter>, stats: &Stats) -> Option<u64> {
    let used = stats.cpu.as_ref()?.usage_ns;
    meter.lock().unwrap_or_else(PoisonError::into_inner).read(stats.timestamp_ns, used)
}

/// None for the host's network: its figures are not the pod's.
fn network(pod: &Pod) -> Option<Network> {
    let all = pod
        .netlink()?
        .all_counters()
        .inspect_err(|error| tracing::debug!(pod = %pod.id, %error, "no network figures"))
        .ok()?;
    let (default, others): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|(name, _)| name == DEFAULT_INTERFACE);
    Some(Network { at: clock::now(), default: default.into_iter().next(), others })
}
