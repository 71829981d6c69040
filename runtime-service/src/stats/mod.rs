//! Resource usage of containers and pods: the kernel's counters, read on request.

pub mod cgroup_reader;
pub mod meter;
mod parallel;
pub mod pod_meters;
pub mod rate;
pub mod reading;
mod usages;
pub mod writable;

pub use reading::{ContainerReading, PodReading, containers, pods};

use self::cgroup_reader::DescriptorBudget;

/// The shared state of all readings of one service.
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
