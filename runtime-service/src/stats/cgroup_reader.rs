//! Reads a cgroup's counters repeatedly. Its files stay open while the descriptor budget allows; opening them
//! for each reading would take five times as long.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crisp_executor::cgroup::{CgroupPath, Cgroups, Detail, Stats, StatsReader};

/// The approximate number of descriptors of one open reader.
const PER_READER: usize = 24;
/// Limit for open readers, independent of the descriptor limit: each costs kernel memory.
const MAX_READERS: usize = 1000;

/// The number of readers, and of exec cgroups, that may keep their files open: together a quarter of the
/// server's descriptors.
#[derive(Debug, Clone)]
pub struct DescriptorBudget(Arc<AtomicUsize>);

impl DescriptorBudget {
    /// From the descriptor limit of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        Self(Arc::new(AtomicUsize::new((limit / 4 / PER_READER).min(MAX_READERS))))
    }

    /// One reader's part. None when all are taken.
    pub(crate) fn acquire(&self) -> Option<Permit> {
        let less = |left: usize| left.checked_sub(1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
        Some(Permit(self.0.clone()))
    }
}

/// One reader's part of the budget, returned when dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reads one cgroup.
#[derive(Debug, Default)]
pub struct CgroupReader {
    files: Mutex<Files>,
    /// Limits have been set since the last reading.
    has_new_limits: AtomicBool,
}

#[derive(Debug, Default)]
enum Files {
    #[default]
    NotOpen,
    Open(Box<StatsReader>, #[expect(dead_code, reason = "its drop returns it")] Permit),
    /// Until the container is started again.
    Closed,
}

impl CgroupReader {
    /// Reads the counters. Blocks for some microseconds. None if there is no such cgroup. The path is needed by
    /// the first reading.
    pub fn read(
        &self,
        cgroups: &Cgroups,
        path: impl FnOnce() -> Option<CgroupPath>,
        budget: &DescriptorBudget,
        detail: Detail,
    ) -> Option<Stats> {
        let mut files = self.lock();
        let has_new_limits = self.has_new_limits.swap(false, Ordering::AcqRel);
        match &mut *files {
            Files::Open(reader, _) => {
                if has_new_limits {
                    reader.forget_limits();
                }
                match reader.read(detail) {
                    Ok(stats) => return Some(stats),
                    Err(_) => *files = Files::NotOpen,
                }
            }
            Files::NotOpen => {}
            Files::Closed => return None,
        }
        let cgroup = cgroups.open(&path()?).ok()?;
        let Some(permit) = budget.acquire() else { return cgroup.stats_of(detail).ok() };
        let mut reader = cgroup.stats_reader().ok()?;
        let stats = reader.read(detail).ok()?;
        *files = Files::Open(Box::new(reader), permit);
        Some(stats)
    }

    /// The processes in the cgroup and below. None if there is no such cgroup.
    pub fn pids(&self, cgroups: &Cgroups, path: impl FnOnce() -> Option<CgroupPath>) -> Option<Vec<i32>> {
        match &*self.lock() {
            Files::Open(reader, _) => reader.pids().ok(),
            Files::NotOpen => cgroups.open(&path()?).ok()?.pids().ok(),
            Files::Closed => None,
        }
    }

    /// Must be called after limits have been set, since limits that are known are not read again.
    pub fn expect_new_limits(&self) {
        self.has_new_limits.store(true, Ordering::Release);
    }

    /// Closes the files and stops reading. A cgroup whose files are open stays in the kernel after its
    /// removal.
    pub fn close(&self) {
        *self.lock() = Files::Closed;
    }

    /// Allows reading after [`close`](Self::close): the cgroup is made again.
    pub fn reopen(&self) {
        *self.lock() = Files::NotOpen;
    }

    fn lock(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
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
