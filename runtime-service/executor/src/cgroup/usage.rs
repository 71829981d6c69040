//! Reading all of a cgroup's counters in one pass.

use std::time::{SystemTime, UNIX_EPOCH};

use super::apply::{At, at};
use super::dir::BUFFER;
use super::error::CgroupError;
use super::hierarchy::{Controller, Host};
use super::path::CgroupPath;
use super::stats::Stats;
use super::{cpu, io, memory, pids};

pub(super) fn stats(host: &Host, path: &CgroupPath) -> Result<Stats, CgroupError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut stats =
        Stats { timestamp_ns: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX), ..Stats::default() };
    let mut buffer = [0u8; BUFFER];
    let buffer = &mut buffer[..];
    stats.cpu = cpu_stats(host, path, buffer)?;
    match at(host, Controller::Memory, path)? {
        Some(At::V1(dir)) => {
            let memory = memory::stats_v1(&dir, buffer)?;
            stats.swap = memory::swap_v1_stats(&dir, &memory)?;
            stats.memory = Some(memory);
        }
        Some(At::V2(dir)) => {
            stats.memory = Some(memory::stats_v2(&dir, buffer)?);
            stats.swap = memory::swap_v2_stats(&dir)?;
        }
        None => {}
    }
    if let Some(at) = at(host, Controller::Pids, path)? {
        stats.pids = Some(pids::stats(at.dir())?);
    }
    stats.io = match at(host, Controller::Io, path)? {
        Some(At::V1(dir)) => Some(io::stats_v1(&dir, buffer)?),
        Some(At::V2(dir)) => Some(io::stats_v2(&dir, buffer)?),
        None => None,
    };
    Ok(stats)
}

fn cpu_stats(
    host: &Host,
    path: &CgroupPath,
    buffer: &mut [u8],
) -> Result<Option<super::CpuStats>, CgroupError> {
    let cpu = at(host, Controller::Cpu, path)?;
    let acct = at(host, Controller::Cpuacct, path)?;
    Ok(match (acct, cpu) {
        (Some(At::V2(dir)), _) | (_, Some(At::V2(dir))) => Some(cpu::stats_v2(&dir, buffer)?),
        (None, None) => None,
        (acct, cpu) => Some(cpu::stats_v1(acct.as_ref().map(At::dir), cpu.as_ref().map(At::dir), buffer)?),
    })
}
