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
use crate::service_state::{ServiceState, cgroup_path};

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

/// Takes readings of containers.
pub async fn containers(service: &Arc<ServiceState>, list: Vec<Arc<Container>>) -> Vec<ContainerReading> {
    let owned = service.clone();
    let read = move || list.into_iter().map(|one| read_container(&owned, one)).collect::<Vec<_>>();
    let mut readings = tokio::task::spawn_blocking(read).await.unwrap_or_default();
    for reading in &mut readings {
        let container = &reading.container;
        reading.writable = container.meters.writable.usage(&container.folder.upper()).await;
    }
    readings
}

fn read_container(service: &ServiceState, container: Arc<Container>) -> ContainerReading {
    let running = matches!(container.status().state, State::Running { .. });
    let path =
        service.pod_of(&container).filter(|_| running).and_then(|pod| cgroup_path(&pod, container.id()).ok());
    let source = &container.meters.source;
    let cgroup = path.and_then(|path| source.read(&service.cgroups, &path, &service.stats_room));
    let nano_cores = cgroup.as_ref().and_then(|stats| rate(&container.meters.cpu, stats));
    ContainerReading { container, cgroup, nano_cores, writable: None }
}

/// Takes readings of pods and of their running containers.
pub async fn pods(service: &Arc<ServiceState>, list: Vec<Arc<Pod>>) -> Vec<PodReading> {
    let mut readings = Vec::new();
    for pod in list {
        let mut running = service.containers.of_pod(&pod.id);
        running.retain(|one| matches!(one.status().state, State::Running { .. }));
        let containers = containers(service, running).await;
        let owned = service.clone();
        let read = move || {
            let own = has_own_parent(&pod).then(|| read(&owned.cgroups, pod.cgroup_parent())).flatten();
            let network = network(&pod);
            (pod, own, network)
        };
        let Ok((pod, cgroup, network)) = tokio::task::spawn_blocking(read).await else { continue };
        let nano_cores = cgroup.as_ref().and_then(|_| containers.iter().map(|c| c.nano_cores).sum());
        readings.push(PodReading { pod, cgroup, nano_cores, network, containers });
    }
    readings
}

/// Whether the cgroup above the containers holds this pod alone. Kubelet makes one per pod and puts
/// the uid into its name; others may give several pods the same one.
fn has_own_parent(pod: &Pod) -> bool {
    let Some(parent) = &pod.config.cgroup_parent else { return true };
    let plain = |text: &str| text.replace(['-', '_'], "");
    !pod.config.uid.is_empty() && plain(parent.name()).contains(&plain(&pod.config.uid))
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
