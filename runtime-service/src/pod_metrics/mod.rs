//! The `container_*` metrics of pods and containers, with the names and labels of cAdvisor: for the
//! Prometheus page, and for kubelets that get them from the runtime.
//!
//! ```text
//!  scrape ----------------- Page --.
//!                                  |- Samples <- cpu, memory, io, network, pressure, processes <- readings
//!  ListPodSandboxMetrics - Metric -'
//! ```
//!
//! A [`Family`] is one metric, in the file of its subject matter. Readings are taken only when a client
//! requests them. A [`Subject`] is a container, a pod's cgroup, or a pod's network.
//!
//! `metrics/CADVISOR.md` and `metrics/CADVISOR-V2.md` compare them with those of a kubelet with containerd, and
//! have the reasons of all differences there. Some do not show there: rows of cgroups that do not belong to a
//! pod, and of the host's interfaces for each pod on the host's network, are missing; `id` has no
//! `cri-containerd-`, which the cgroup driver systemd adds; `container_start_time_seconds` is that of the
//! process, not of its cgroup; and on cgroup v2 `container_memory_kernel_usage` is counted too.

mod cpu;
mod family;
mod io;
mod memory;
mod network;
mod page;
mod pressure;
mod processes;
mod subject;

use crisp_executor::cgroup::{Detail, Mode, Stats};

pub use self::family::{Family, Kind, Samples, Value};
use self::io::{Disks, WritableDisk};
use self::page::Page;
use self::processes::{ProcessUsage, SCRAPE_MAX};
pub use self::subject::Subject;
use crate::container::state::State;
use crate::service_state::{ServiceState, cgroup_path};
use crate::stats::reading::{self, ContainerReading, PodReading};

const GROUPS: [&[Family]; 6] = [
    cpu::FAMILIES,
    memory::FAMILIES,
    io::FAMILIES,
    network::FAMILIES,
    pressure::FAMILIES,
    processes::FAMILIES,
];

/// All metrics.
pub fn families() -> impl Iterator<Item = &'static Family> {
    GROUPS.into_iter().flatten()
}

/// Readings of all pods and containers with processes, also of those with a slow monitor.
pub struct Scrape<'a> {
    service: &'a ServiceState,
    pub pods: Vec<PodReading>,
    disks: Disks,
    writable: WritableDisk,
    /// Number of descriptors that may still be examined.
    descriptors_left: u64,
}

impl<'a> Scrape<'a> {
    /// Blocks, for some microseconds per container.
    pub fn take(service: &'a ServiceState) -> Self {
        let mut pods = service.pods.list();
        pods.retain(|pod| pod.status().state.may_run());
        let pods = reading::pods_now(service, pods, Detail::ALL);
        let mut disks = Disks::default();
        let writable = disks.of_folder(&service.layout.containers());
        Self { service, pods, disks, writable, descriptors_left: SCRAPE_MAX }
    }

    /// The kernel's counters for a whole pod; none if it shares its cgroup with others.
    pub fn pod(&mut self, pod: usize, samples: &mut impl Samples) {
        let Self { service, pods, disks, .. } = self;
        let Some(stats) = &pods[pod].cgroup else { return };
        let has_quota = stats.cpu.as_ref().is_some_and(|cpu| cpu.periods > 0);
        counters(service, stats, has_quota, disks, samples);
        processes::usage(stats.pids.as_ref(), None, samples);
        processes::start_time(pods[pod].pod.created_at, samples);
    }

    /// The interfaces of a pod with a network of its own.
    pub fn network(&self, pod: usize, samples: &mut impl Samples) {
        let Some(all) = &self.pods[pod].network else { return };
        for (name, counters) in all.default.iter().chain(&all.others) {
            network::usage(name, counters, samples);
        }
    }

    /// A container with processes; no samples if it has just ended.
    pub fn container(&mut self, pod: usize, container: usize, samples: &mut impl Samples) {
        let Self { service, pods, disks, writable: disk, descriptors_left } = self;
        let ContainerReading { container, cgroup, writable, .. } = &pods[pod].containers[container];
        let Some(stats) = cgroup else { return };
        let status = container.status();
        counters(service, stats, status.resources.has_quota(), disks, samples);
        if let Some(memory) = &stats.memory {
            memory::oom_kills(memory, samples);
        }
        let path = || cgroup_path(&pods[pod].pod, container.id()).ok();
        let pids = container.meters.cgroup.reader.pids(&service.cgroups, path);
        let processes = pids.map(|pids| ProcessUsage::of(&pids, status.state.pid(), descriptors_left));
        processes::usage(stats.pids.as_ref(), processes.as_ref(), samples);
        cpu::limits(&status.resources, samples);
        io::writable(writable.as_ref(), disk, samples);
        if let State::Running { started_at, .. } | State::Unknown { started_at: Some(started_at), .. } =
            status.state
        {
            processes::start_time(started_at, samples);
        }
    }
}

fn counters(
    service: &ServiceState,
    stats: &Stats,
    has_quota: bool,
    disks: &mut Disks,
    samples: &mut impl Samples,
) {
    if let Some(cpu) = &stats.cpu {
        cpu::usage(cpu, has_quota, samples);
    }
    if let Some(memory) = &stats.memory {
        memory::usage(memory, stats.swap.as_ref(), samples);
        memory::limits(memory, stats.swap.as_ref(), service.cgroups.mode() == Mode::V2, samples);
    }
    if let Some(io) = &stats.io {
        io::usage(io, disks, samples);
    }
    pressure::usage(stats, samples);
}

/// Adds the metrics of all pods to the page.
pub fn write(service: &ServiceState, page: &mut String) {
    let mut scrape = Scrape::take(service);
    let mut families = Page::default();
    for pod in 0..scrape.pods.len() {
        let reading = &scrape.pods[pod];
        let (own, network) = (Subject::of_pod(&reading.pod), Subject::of_network(&reading.pod));
        let containers: Vec<_> = reading
            .containers
            .iter()
            .map(|one| Subject::of_container(&reading.pod, &one.container))
            .collect();
        scrape.pod(pod, &mut families.of(&own));
        scrape.network(pod, &mut families.of(&network));
        for (container, subject) in containers.iter().enumerate() {
            scrape.container(pod, container, &mut families.of(subject));
        }
    }
    families.write(page);
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_and_labels_are_valid_and_stand_once() {
        let mut seen = HashSet::new();
        for family in families() {
            assert!(family.name.starts_with("container_") && seen.insert(family.name), "{}", family.name);
            // cAdvisor's names for these do not follow the rule.
            let is_counter = match family.name {
                "container_memory_failcnt" => true,
                "container_fs_inodes_total" => false,
                name => name.ends_with("_total"),
            };
            assert_eq!(is_counter, family.kind == Kind::Counter, "{}", family.name);
            assert!(family.labels.iter().all(|label| !Subject::LABELS.contains(label)), "{}", family.name);
        }
    }
}
