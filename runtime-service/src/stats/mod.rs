//! What containers and pods use: the kernel's counters, read when a client asks.

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
