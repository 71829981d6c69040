//! Where a container's figures come from: its cgroup's files, kept open while there is room for them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crisp_executor::cgroup::{CgroupPath, Cgroups, Stats, StatsReader};

/// Descriptors of one reader, about.
const PER_READER: usize = 16;

/// How many readers may keep their files open: a quarter of the server's descriptors.
#[derive(Debug, Clone)]
pub struct Room(Arc<AtomicUsize>);

impl Room {
    /// By the limit that this process runs under.
    #[must_use]
    pub fn of_process() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        Self(Arc::new(AtomicUsize::new((limit / 4 / PER_READER).min(1000))))
    }

    fn take(&self) -> Option<Place> {
        let less = |left: usize| left.checked_sub(1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
        Some(Place(self.0.clone()))
    }
}

/// Given back when dropped.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The open files of one cgroup, if they are kept.
#[derive(Debug, Default)]
pub struct Source {
    kept: Mutex<Option<(StatsReader, Place)>>,
}

impl Source {
    /// Reads the cgroup's figures. Blocking, in microseconds. None: there is no such cgroup.
    pub fn read(&self, cgroups: &Cgroups, path: &CgroupPath, room: &Room) -> Option<Stats> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((reader, _)) = &mut *kept {
            if let Ok(stats) = reader.read() {
                return Some(stats);
            }
            *kept = None;
        }
        let cgroup = cgroups.open(path).ok()?;
        let Some(place) = room.take() else { return cgroup.stats().ok() };
        let mut reader = cgroup.stats_reader().ok()?;
        let stats = reader.read().ok()?;
        *kept = Some((reader, place));
        Some(stats)
    }

    /// Closes the files.
    pub fn close(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_run_out_and_come_back() {
        let room = Room(Arc::new(AtomicUsize::new(1)));
        let place = room.take();
        assert!(place.is_some() && room.take().is_none());
        drop(place);
        assert!(room.take().is_some());
    }
}
