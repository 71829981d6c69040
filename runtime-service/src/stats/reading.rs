//! Readings of containers and pods.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crisp_executor::cgroup::{Detail, Stats};
use crisp_executor::ids::PodId;
use crisp_sandbox::Pod;
use crisp_sandbox::network::{INTERFACE, InterfaceCounters};

use super::parallel;
use super::usages::{latest, usages};
use super::writable::Usage;
use crate::container::Container;
use crate::container::state::State;
use crate::service_state::{ServiceState, cgroup_path};
use crisp_operation::clock;

/// One container at one moment.
#[derive(Debug, Clone)]
pub struct ContainerReading {
    pub container: Arc<Container>,
    /// None when it does not run.
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
    let mut readings = parallel::map(list, move |one| read_container(&owned, one, Detail::USAGE)).await;
    add_writable(readings.iter_mut().collect()).await;
    readings
}

/// Takes readings of pods and of their running containers.
pub async fn pods(service: &Arc<ServiceState>, list: Vec<Arc<Pod>>) -> Vec<PodReading> {
    let owned = service.clone();
    let read = move |(containers, pod)| read_pod(&owned, pod, containers, Detail::USAGE);
    let mut readings = parallel::map(with_running(service, list), read).await;
    add_writable(readings.iter_mut().flat_map(|pod| &mut pod.containers).collect()).await;
    readings
}

/// Like [`pods`], on this thread: blocks. Does not wait for counts of writable layers.
pub fn pods_now(service: &ServiceState, list: Vec<Arc<Pod>>, detail: Detail) -> Vec<PodReading> {
    let pods = with_running(service, list).into_iter();
    let mut readings: Vec<_> =
        pods.map(|(containers, pod)| read_pod(service, pod, containers, detail)).collect();
    let containers: Vec<_> = readings.iter_mut().flat_map(|pod| &mut pod.containers).collect();
    let counted = latest(&containers.iter().map(|reading| reading.container.clone()).collect::<Vec<_>>());
    containers.into_iter().zip(counted).for_each(|(reading, usage)| reading.writable = usage);
    readings
}

/// The pods, each with its containers that have processes.
fn with_running(service: &ServiceState, list: Vec<Arc<Pod>>) -> Vec<(Vec<Arc<Container>>, Arc<Pod>)> {
    forget_stopped(service);
    let mut running: HashMap<PodId, Vec<Arc<Container>>> = HashMap::new();
    for container in service.containers.all() {
        if has_processes(&container) {
            running.entry(container.metadata.pod.clone()).or_default().push(container);
        }
    }
    list.into_iter().map(|pod| (running.remove(&pod.id).unwrap_or_default(), pod)).collect()
}

/// Closes the files of pods that ended without StopPodSandbox.
fn forget_stopped(service: &ServiceState) {
    let pods = service.pods.list();
    let alive = pods.iter().filter(|pod| pod.status().state.may_run()).map(|pod| &pod.id);
    service.stats.pods.retain(&alive.collect::<HashSet<_>>());
}

/// Also true for a container whose monitor is silent: its cgroup exists.
fn has_processes(container: &Container) -> bool {
    matches!(container.status().state, State::Running { .. } | State::Unknown { .. })
}

async fn add_writable(mut readings: Vec<&mut ContainerReading>) {
    let containers: Vec<_> = readings.iter().map(|reading| reading.container.clone()).collect();
    let counted = usages(&containers).await;
    for (reading, usage) in readings.iter_mut().zip(counted) {
        reading.writable = usage;
    }
}

fn read_container(service: &ServiceState, container: Arc<Container>, detail: Detail) -> ContainerReading {
    let status = container.status();
    let detail = Detail {
        throttling: detail.throttling && status.resources.has_quota(),
        cached_limits: true,
        ..detail
    };
    let path = || cgroup_path(&*service.pod_of(&container)?, container.id()).ok();
    let (cgroups, descriptors) = (&service.cgroups, &service.stats.descriptors);
    let read =
        has_processes(&container).then(|| container.meters.cgroup.read(cgroups, path, descriptors, detail));
    let (cgroup, nano_cores) = read.flatten().map_or((None, None), |(stats, rate)| (Some(stats), rate));
    ContainerReading { container, cgroup, nano_cores, writable: None }
}

fn read_pod(
    service: &ServiceState,
    pod: Arc<Pod>,
    containers: Vec<Arc<Container>>,
    detail: Detail,
) -> PodReading {
    let containers = containers.into_iter().map(|one| read_container(service, one, detail)).collect();
    let (cgroup, nano_cores) =
        own_cgroup(service, &pod, detail).map_or((None, None), |(stats, rate)| (Some(stats), rate));
    let network = network(&pod);
    PodReading { pod, cgroup, nano_cores, network, containers }
}

/// The counters of the pod's whole cgroup, if it belongs to this pod alone.
fn own_cgroup(service: &ServiceState, pod: &Pod, detail: Detail) -> Option<(Stats, Option<u64>)> {
    if !has_own_parent(pod) || !pod.status().state.may_run() {
        return None;
    }
    let meter = service.stats.pods.of(&pod.id);
    // Processes are killed in the cgroups of containers.
    let detail = Detail { oom_kills: false, ..detail };
    let path = || Some(pod.whole_cgroup().clone());
    meter.read(&service.cgroups, path, &service.stats.descriptors, detail)
}

/// Kubelet makes one cgroup per pod with the uid in its name; other clients may give several pods the same
/// one.
fn has_own_parent(pod: &Pod) -> bool {
    let Some(parent) = &pod.config.cgroup_parent else { return true };
    let plain = |text: &str| text.replace(['-', '_'], "");
    !pod.config.uid.is_empty() && plain(parent.name()).contains(&plain(&pod.config.uid))
}

/// None for a pod on the host's network, whose counters are not the pod's.
fn network(pod: &Pod) -> Option<Network> {
    let all = pod
        .netlink()?
        .all_counters()
        .inspect_err(|error| tracing::debug!(pod = %pod.id, %error, "cannot read network counters"))
        .ok()?;
    let (default, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(name, _)| name == INTERFACE);
    Some(Network { at: clock::now(), default: default.into_iter().next(), others })
}
