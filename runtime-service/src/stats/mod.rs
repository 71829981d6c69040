//! How containers and pods are doing: figures of the kernel, taken when asked for.

pub mod rate;
pub mod reading;
pub mod source;
pub mod writable;

pub use reading::{ContainerReading, PodReading, containers, pods};

use std::sync::Mutex;

/// What is remembered between two readings of one container.
#[derive(Debug, Default)]
pub struct Meters {
    pub cpu: Mutex<rate::CpuMeter>,
    pub source: source::Source,
    pub writable: writable::Writable,
}
