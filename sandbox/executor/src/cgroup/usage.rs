//! Reads all counters of a cgroup in one pass.

use std::time::{SystemTime, UNIX_EPOCH};

use super::apply::{At, at};
use super::dir::{BUFFER, Dir};
use super::error::CgroupError;
use super::hierarchy::{Controller, Host};
use super::path::CgroupPath;
use super::stats::{CpuStats, Detail, MemoryStats, Stats, SwapStats};
use super::{cpu, io, memory, pids, psi};

/// Files that only [`Detail::All`] reads, on v1 and on v2: throttling, shares of user and system, high-water
/// marks, events and bytes per device. In v2 cpu.stat has the usage as well.
const CPU: [&[&str]; 2] = [&["cpu.stat"], &[]];
const CPUACCT: [&[&str]; 2] = [&["cpuacct.stat"], &[]];
const MEMORY: [&[&str]; 2] = [
    &["memory.max_usage_in_bytes", "memory.failcnt", "memory.oom_control", "memory.kmem.usage_in_bytes"],
    &["memory.peak", "memory.events"],
];
const IO: [&[&str]; 2] =
    [&["blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"], &["io.stat"]];
const NONE: [&[&str]; 2] = [&[], &[]];

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
        })
    }

    /// For repeated reading.
    pub(super) fn keep_files(self) -> Self {
        let keep = |at: Option<At>, details| at.map(|at| at.keep_files(details));
        Self {
            cpu: keep(self.cpu, CPU),
            cpuacct: keep(self.cpuacct, CPUACCT),
            memory: keep(self.memory, MEMORY),
            pids: keep(self.pids, NONE),
            io: keep(self.io, IO),
            pressure: self.pressure.map(|dir| dir.keep_files(&[])),
        }
    }

    pub(super) fn read(&self, detail: Detail) -> Result<Stats, CgroupError> {
        for at in [&self.cpu, &self.cpuacct, &self.memory, &self.io].into_iter().flatten() {
            at.dir().read_details(detail == Detail::All);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut buffer = [0u8; BUFFER];
        let buffer = &mut buffer[..];
        let (memory, swap) = self.memory(buffer)?;
        let mut stats = Stats {
            timestamp_ns: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX),
            cpu: self.cpu(buffer)?,
            memory,
            swap,
            pids: self.pids.as_ref().map(|at| pids::stats(at.dir())).transpose()?,
            io: match &self.io {
                Some(At::V1(dir)) => Some(io::stats_v1(dir, buffer)?),
                Some(At::V2(dir)) => Some(io::stats_v2(dir, buffer)?),
                None => None,
            },
        };
        if let Some(dir) = &self.pressure {
            add_pressure(&mut stats, dir, buffer)?;
        }
        Ok(stats)
    }

    fn cpu(&self, buffer: &mut [u8]) -> Result<Option<CpuStats>, CgroupError> {
        Ok(match (&self.cpu, &self.cpuacct) {
            (None, None) => None,
            (Some(At::V2(dir)), _) => Some(cpu::stats_v2(dir, buffer)?),
            (cpu, acct) => {
                Some(cpu::stats_v1(acct.as_ref().map(At::dir), cpu.as_ref().map(At::dir), buffer)?)
            }
        })
    }

    fn memory(&self, buffer: &mut [u8]) -> Result<(Option<MemoryStats>, Option<SwapStats>), CgroupError> {
        Ok(match &self.memory {
            Some(At::V1(dir)) => {
                let memory = memory::stats_v1(dir, buffer)?;
                let swap = memory::swap_v1_stats(dir, &memory)?;
                (Some(memory), swap)
            }
            Some(At::V2(dir)) => (Some(memory::stats_v2(dir, buffer)?), memory::swap_v2_stats(dir)?),
            None => (None, None),
        })
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
