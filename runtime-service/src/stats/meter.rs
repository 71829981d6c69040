//! The state between two readings of one cgroup or container.

use std::sync::{Mutex, PoisonError};

use crisp_executor::cgroup::{CgroupPath, Cgroups, Detail, Stats};

use super::cgroup_reader::{CgroupReader, DescriptorBudget};
use super::rate::CpuMeter;
use super::writable::Writable;

/// The state between two readings of one cgroup.
#[derive(Debug, Default)]
pub struct Meter {
    pub reader: CgroupReader,
    cpu: Mutex<CpuMeter>,
}

impl Meter {
    /// The counters and the CPU use in nano cores. Blocks for some microseconds.
    pub fn read(
        &self,
        cgroups: &Cgroups,
        path: impl FnOnce() -> Option<CgroupPath>,
        budget: &DescriptorBudget,
        detail: Detail,
    ) -> Option<(Stats, Option<u64>)> {
        let stats = self.reader.read(cgroups, path, budget, detail)?;
        // A reading for metrics must not shorten the interval of a rate.
        let rated = stats.cpu.as_ref().filter(|_| !detail.more);
        let rate = rated.and_then(|cpu| {
            self.cpu.lock().unwrap_or_else(PoisonError::into_inner).read(stats.timestamp_ns, cpu.usage_ns)
        });
        Some((stats, rate))
    }
}

/// The state between two readings of one container.
#[derive(Debug, Default)]
pub struct Meters {
    pub cgroup: Meter,
    pub writable: Writable,
}
