//! What containers and pods use: the kernel's counters, read when a client asks.

pub mod cgroup_reader;
mod parallel;
pub mod pod_meters;
pub mod rate;
pub mod reading;
pub mod writable;

pub use reading::{ContainerReading, PodReading, containers, pods};

use std::sync::{Mutex, PoisonError};

use crisp_executor::cgroup::{CgroupPath, Cgroups, Stats};

use self::cgroup_reader::{CgroupReader, DescriptorBudget};

/// What all readings of one service share.
#[derive(Debug)]
pub struct StatsState {
    pub descriptors: DescriptorBudget,
    pub pods: pod_meters::PodMeters,
}

impl Default for StatsState {
    fn default() -> Self {
        Self { descriptors: DescriptorBudget::of_process(), pods: pod_meters::PodMeters::default() }
    }
}

/// What is remembered between two readings of one cgroup.
#[derive(Debug, Default)]
pub struct Meter {
    pub reader: CgroupReader,
    cpu: Mutex<rate::CpuMeter>,
}

impl Meter {
    /// The counters and the CPU use in nano cores. Blocking, for some microseconds.
    fn read(
        &self,
        cgroups: &Cgroups,
        path: &CgroupPath,
        budget: &DescriptorBudget,
    ) -> Option<(Stats, Option<u64>)> {
        let stats = self.reader.read(cgroups, path, budget)?;
        let rate = stats.cpu.as_ref().and_then(|cpu| {
            self.cpu.lock().unwrap_or_else(PoisonError::into_inner).read(stats.timestamp_ns, cpu.usage_ns)
        });
        Some((stats, rate))
    }
}

/// What is remembered between two readings of one container.
#[derive(Debug, Default)]
pub struct Meters {
    pub cgroup: Meter,
    pub writable: writable::Writable,
}
