//! How containers and pods are doing: figures of the kernel, taken when asked for.

pub mod rate;
pub mod reading;
pub mod writable;

pub use reading::{ContainerReading, PodReading, container, pod};

use std::sync::Mutex;

use crisp_executor::cgroup::StatsReader;

/// What is remembered between two readings of one container or pod.
#[derive(Debug, Default)]
pub struct Meters {
    pub cpu: Mutex<rate::CpuMeter>,
    pub writable: writable::Writable,
    /// The files of a running container's cgroup, open since its first reading.
    pub cgroup: Mutex<Option<StatsReader>>,
}
