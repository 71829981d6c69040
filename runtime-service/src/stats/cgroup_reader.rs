//! Reads a cgroup's counters again and again. Its files stay open while the descriptor budget allows,
//! which takes a fifth of the time of opening them for each reading.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crisp_executor::cgroup::{CgroupPath, Cgroups, Stats, StatsReader};

/// About as many descriptors as one open reader has.
const PER_READER: usize = 12;
/// Open readers at most, however many descriptors the server may have: each costs kernel memory.
const MAX_READERS: usize = 1000;

/// How many readers may keep their files open: together a quarter of the server's descriptors.
#[derive(Debug, Clone)]
pub struct DescriptorBudget(Arc<AtomicUsize>);

impl DescriptorBudget {
    /// By the limit that this process runs under.
    #[must_use]
    pub fn of_process() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        Self(Arc::new(AtomicUsize::new((limit / 4 / PER_READER).min(MAX_READERS))))
    }

    fn acquire(&self) -> Option<Permit> {
        let less = |left: usize| left.checked_sub(1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
        Some(Permit(self.0.clone()))
    }
}

/// One reader's part of the budget, returned when dropped.
#[derive(Debug)]
struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reads one cgroup.
#[derive(Debug, Default)]
pub struct CgroupReader {
    open: Mutex<Option<(StatsReader, Permit)>>,
}

impl CgroupReader {
    /// Reads all counters. Blocking, for some microseconds. None: there is no such cgroup.
    pub fn read(&self, cgroups: &Cgroups, path: &CgroupPath, budget: &DescriptorBudget) -> Option<Stats> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((reader, _)) = &mut *open {
            if let Ok(stats) = reader.read() {
                return Some(stats);
            }
            *open = None;
        }
        let cgroup = cgroups.open(path).ok()?;
        let Some(permit) = budget.acquire() else { return cgroup.stats().ok() };
        let mut reader = cgroup.stats_reader().ok()?;
        let stats = reader.read().ok()?;
        *open = Some((reader, permit));
        Some(stats)
    }

    /// Closes the files. A cgroup whose files are open stays in the kernel after its removal.
    pub fn close(&self) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_run_out_and_come_back() {
        let budget = DescriptorBudget(Arc::new(AtomicUsize::new(1)));
        let permit = budget.acquire();
        assert!(permit.is_some() && budget.acquire().is_none());
        drop(permit);
        assert!(budget.acquire().is_some());
    }
}
