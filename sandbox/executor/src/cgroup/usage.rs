//! Reads all counters of a cgroup in one pass.

use std::time::{SystemTime, UNIX_EPOCH};

use super::apply::{At, at};
use super::cached_limits::{CachedLimit, CachedLimits};
use super::dir::{BUFFER, Dir};
use super::error::CgroupError;
use super::hierarchy::{Controller, Host};
use super::path::CgroupPath;
use super::stats::{CpuStats, Detail, IoStats, MemoryStats, Stats, SwapStats};
use super::{cpu, io, kill, memory, pids, psi};

/// The folders with counters; None if the host has no such controller.
#[derive(Debug)]
pub(super) struct Counters {
    cpu: Option<At>,
    cpuacct: Option<At>,
    memory: Option<At>,
    pids: Option<At>,
    io: Option<At>,
    /// On a hybrid host pressure is counted for every cgroup of the v2 tree, without a controller.
    pressure: Option<Dir>,
    cached: CachedLimits,
}

impl Counters {
    pub(super) fn open(host: &Host, path: &CgroupPath) -> Result<Self, CgroupError> {
        let at = |controller| at(host, controller, path);
        Ok(Self {
            cpu: at(Controller::Cpu)?,
            cpuacct: at(Controller::Cpuacct)?,
            memory: at(Controller::Memory)?,
            pids: at(Controller::Pids)?,
            io: at(Controller::Io)?,
            pressure: host.hybrid().map(|v2| v2.dir(path)).transpose()?.flatten(),
            cached: CachedLimits::default(),
        })
    }

    /// For repeated reading.
    pub(super) fn keep_files(self) -> Self {
        let keep = |at: Option<At>| at.map(At::keep_files);
        Self {
            cpu: keep(self.cpu),
            cpuacct: keep(self.cpuacct),
            memory: keep(self.memory),
            pids: keep(self.pids),
            io: keep(self.io),
            pressure: self.pressure.map(Dir::keep_files),
            cached: self.cached,
        }
    }

    /// The limits are read anew by the next reading.
    pub(super) fn forget_limits(&mut self) {
        self.cached = CachedLimits::default();
    }

    pub(super) fn read(&mut self, detail: Detail) -> Result<Stats, CgroupError> {
        // On v1 the memory limits are compared with those in memory.stat, and cached ones are of use.
        if !detail.cached_limits {
            self.cached.pids = CachedLimit::default();
            if matches!(self.memory, Some(At::V2(_))) {
                (self.cached.memory, self.cached.swap) = (CachedLimit::default(), CachedLimit::default());
            }
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut buffer = [0u8; BUFFER];
        let buffer = &mut buffer[..];
        let (memory, swap) = self.memory(detail, buffer)?;
        let mut stats = Stats {
            timestamp_ns: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX),
            cpu: self.cpu(detail, buffer)?,
            memory,
            swap,
            pids: match &self.pids {
                Some(at) => Some(pids::stats(at.dir(), &mut self.cached.pids)?),
                None => None,
            },
            io: match &self.io {
                Some(At::V1(_)) if !detail.more => Some(IoStats::default()),
                Some(At::V1(dir)) => Some(io::stats_v1(dir, buffer)?),
                Some(At::V2(dir)) => Some(io::stats_v2(dir, detail, buffer)?),
                None => None,
            },
        };
        if let Some(dir) = &self.pressure {
            add_pressure(&mut stats, dir, buffer)?;
        }
        Ok(stats)
    }

    fn cpu(&self, detail: Detail, buffer: &mut [u8]) -> Result<Option<CpuStats>, CgroupError> {
        Ok(match (&self.cpu, &self.cpuacct) {
            (None, None) => None,
            (Some(At::V2(dir)), _) => Some(cpu::stats_v2(dir, buffer)?),
            (cpu, acct) => {
                let (acct, cpu) = (acct.as_ref().map(At::dir), cpu.as_ref().map(At::dir));
                Some(cpu::stats_v1(acct, cpu, detail, buffer)?)
            }
        })
    }

    fn memory(
        &mut self,
        detail: Detail,
        buffer: &mut [u8],
    ) -> Result<(Option<MemoryStats>, Option<SwapStats>), CgroupError> {
        let cached = &mut self.cached;
        let (memory, swap) = match &self.memory {
            Some(At::V1(dir)) => memory::stats_v1(dir, cached, detail, buffer)?,
            Some(At::V2(dir)) => memory::stats_v2(dir, cached, detail, buffer)?,
            None => return Ok((None, None)),
        };
        Ok((Some(memory), swap))
    }

    /// The processes in it and below.
    pub(super) fn pids(&self) -> Result<Vec<i32>, CgroupError> {
        let mut found = Vec::new();
        let own = [&self.pids, &self.memory, &self.cpu].into_iter().flatten().next();
        // Every process is in both trees of a hybrid host; v2 lists them faster.
        if let (Some(dir), _) | (None, Some(At::V2(dir))) = (&self.pressure, own) {
            kill::collect_kept(dir, &mut found)?;
        }
        if let (true, Some(At::V1(dir))) = (found.is_empty(), own) {
            kill::collect_below(dir, &mut found)?;
        }
        // One that moves between two of the cgroups is in both lists.
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }
}

fn add_pressure(stats: &mut Stats, dir: &Dir, buffer: &mut [u8]) -> Result<(), CgroupError> {
    if let Some(cpu) = &mut stats.cpu {
        cpu.psi = psi::read(dir, "cpu.pressure", buffer)?;
    }
    if let Some(memory) = &mut stats.memory {
        memory.psi = psi::read(dir, "memory.pressure", buffer)?;
    }
    if let Some(io) = &mut stats.io {
        io.psi = psi::read(dir, "io.pressure", buffer)?;
    }
    Ok(())
}
