//! memory: limits, swap, and usage.

use rustix::io::Errno;

use super::cached_limits::CachedLimits;
use super::dir::{Dir, keyed};
use super::error::CgroupError;
use super::psi;
use super::resources::{Memory, invalid};
use super::stats::{Detail, MemoryStats, SwapStats};

/// A requested value: 0 means none, negative numbers mean "no limit".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Unlimited,
    Bytes(u64),
}

fn limit(value: Option<i64>) -> Option<Limit> {
    match value? {
        0 => None,
        n => Some(u64::try_from(n).map_or(Limit::Unlimited, Limit::Bytes)),
    }
}

impl Limit {
    fn v1(self) -> String {
        match self {
            Self::Unlimited => "-1".to_owned(),
            Self::Bytes(n) => n.to_string(),
        }
    }

    fn v2(self) -> String {
        match self {
            Self::Unlimited => "max".to_owned(),
            Self::Bytes(n) => n.to_string(),
        }
    }
}

/// Refuses limits that no kernel supports, before anything is written.
pub(super) fn check(memory: &Memory) -> Result<(), CgroupError> {
    match (limit(memory.limit), limit(memory.swap)) {
        (Some(Limit::Bytes(memory)), Some(Limit::Bytes(total))) if total < memory => Err(invalid(
            "memory swap",
            format!("{total} is memory plus swap together, so it cannot be below the memory limit {memory}"),
        )),
        (None | Some(Limit::Unlimited), Some(Limit::Bytes(_))) => {
            Err(invalid("memory swap", "it is memory plus swap together, so it needs a memory limit as well"))
        }
        _ => Ok(()),
    }
}

/// Refuses limits that only v2 has.
pub(super) fn check_v1(memory: &Memory) -> Result<(), CgroupError> {
    if memory.oom_group == Some(true) {
        return Err(invalid("memory oom group", "cgroup v1 cannot kill all processes of a cgroup at once"));
    }
    Ok(())
}

/// Refuses limits that only v1 has.
pub(super) fn check_v2(memory: &Memory) -> Result<(), CgroupError> {
    if memory.swappiness.is_some() {
        return Err(invalid("memory swappiness", "cgroup v2 has no such setting"));
    }
    Ok(())
}

/// Refuses a limit below the present usage, if that was requested.
fn check_usage(dir: &Dir, memory: &Memory, usage_file: &'static str) -> Result<(), CgroupError> {
    if let (true, Some(Limit::Bytes(bytes))) = (memory.check_before_update, limit(memory.limit)) {
        let usage = dir.read_number(usage_file)?.unwrap_or_default();
        if usage > bytes {
            return Err(invalid("memory limit", format!("{bytes} is below the {usage} bytes in use now")));
        }
    }
    Ok(())
}

pub(super) fn apply_v2(dir: &Dir, memory: &Memory) -> Result<(), CgroupError> {
    check_usage(dir, memory, "memory.current")?;
    let bytes = limit(memory.limit);
    if let Some(swap) = swap_v2(bytes, limit(memory.swap))
        && !dir.write_opt("memory.swap.max", &swap.v2())?
        && matches!(swap, Limit::Bytes(1..))
    {
        return Err(dir.write_error("memory.swap.max", &swap.v2(), Errno::NOENT));
    }
    if let Some(bytes) = bytes {
        dir.write("memory.max", &bytes.v2())?;
    }
    if let Some(low) = limit(memory.reservation) {
        dir.write("memory.low", &low.v2())?;
    }
    if let Some(group) = memory.oom_group {
        dir.write("memory.oom.group", if group { "1" } else { "0" })?;
    }
    Ok(())
}

/// v2 limits swap separately, the request limits memory and swap together. No memory limit means no swap
/// limit.
fn swap_v2(memory: Option<Limit>, total: Option<Limit>) -> Option<Limit> {
    match (memory, total) {
        (_, Some(Limit::Unlimited)) | (Some(Limit::Unlimited), None) => Some(Limit::Unlimited),
        (Some(Limit::Bytes(memory)), Some(Limit::Bytes(total))) => {
            Some(Limit::Bytes(total.saturating_sub(memory)))
        }
        _ => None,
    }
}

pub(super) fn apply_v1(dir: &Dir, memory: &Memory) -> Result<(), CgroupError> {
    check_usage(dir, memory, "memory.usage_in_bytes")?;
    let bytes = limit(memory.limit);
    // No memory limit means no swap limit.
    let total = limit(memory.swap).or_else(|| bytes.filter(|b| *b == Limit::Unlimited));
    apply_v1_limits(dir, bytes, total)?;
    if let Some(soft) = limit(memory.reservation) {
        dir.write("memory.soft_limit_in_bytes", &soft.v1())?;
    }
    if let Some(swappiness) = memory.swappiness {
        dir.write("memory.swappiness", &swappiness.to_string())?;
    }
    Ok(())
}

/// Memory must never exceed memory+swap: when the limits rise, the sum is set first; when they fall, last.
fn apply_v1_limits(dir: &Dir, bytes: Option<Limit>, total: Option<Limit>) -> Result<(), CgroupError> {
    const MEMORY: &str = "memory.limit_in_bytes";
    let Some(total) = total else {
        return bytes.map_or(Ok(()), |bytes| dir.write(MEMORY, &bytes.v1()));
    };
    let Some(now) = dir.read_limit("memory.memsw.limit_in_bytes")? else {
        // Without swap accounting there is nothing to set; an error only if swap was asked for.
        let wants_swap = matches!((bytes, total), (Some(Limit::Bytes(b)), Limit::Bytes(t)) if t > b);
        if wants_swap {
            return Err(dir.write_error("memory.memsw.limit_in_bytes", &total.v1(), Errno::NOENT));
        }
        return bytes.map_or(Ok(()), |bytes| dir.write(MEMORY, &bytes.v1()));
    };
    let raises = match total {
        Limit::Unlimited => true,
        Limit::Bytes(total) => now.is_some_and(|now| total > now),
    };
    if raises {
        dir.write("memory.memsw.limit_in_bytes", &total.v1())?;
    }
    if let Some(bytes) = bytes {
        dir.write(MEMORY, &bytes.v1())?;
    }
    if raises { Ok(()) } else { dir.write("memory.memsw.limit_in_bytes", &total.v1()) }
}

pub(super) fn stats_v2(
    dir: &Dir,
    cached: &mut CachedLimits,
    detail: Detail,
    buffer: &mut [u8],
) -> Result<(MemoryStats, Option<SwapStats>), CgroupError> {
    let usage = dir.read_number("memory.current")?.unwrap_or_default();
    let mut stats = MemoryStats { usage, ..MemoryStats::default() };
    for (key, value) in keyed(dir.read_opt("memory.stat", buffer)?.unwrap_or_default()) {
        match key {
            "anon" => stats.rss = value,
            "file" => stats.cache = value,
            "file_mapped" => stats.mapped_file = value,
            "pgfault" => stats.page_faults = value,
            "pgmajfault" => stats.major_page_faults = value,
            "active_file" => stats.active_file = value,
            "inactive_file" => stats.inactive_file = value,
            "kernel" => stats.kernel = value,
            _ => {}
        }
    }
    if detail.more {
        stats.max_usage = dir.read_number("memory.peak")?;
        for (key, value) in keyed(dir.read_opt("memory.events", buffer)?.unwrap_or_default()) {
            match key {
                "max" => stats.limit_hits = value,
                "oom_kill" => stats.oom_kills = value,
                _ => {}
            }
        }
    }
    stats.psi = psi::read(dir, "memory.pressure", buffer)?;
    // Node agents change it beside us.
    let limit = dir.read_limit("memory.max")?.flatten();
    // None when swap is not accounted.
    let swap = match dir.read_number("memory.swap.current")? {
        Some(usage) => Some(SwapStats { usage, limit: cached.swap.or_read(dir, "memory.swap.max")? }),
        None => None,
    };
    Ok((finish(stats, limit), swap))
}

/// memory.stat has the limits and the swap too: each file costs a microsecond and more.
pub(super) fn stats_v1(
    dir: &Dir,
    cached: &mut CachedLimits,
    detail: Detail,
    buffer: &mut [u8],
) -> Result<(MemoryStats, Option<SwapStats>), CgroupError> {
    let usage = dir.read_number("memory.usage_in_bytes")?.unwrap_or_default();
    let mut stats = MemoryStats { usage, ..MemoryStats::default() };
    let (mut lowest, mut lowest_total, mut swap) = (None, None, None);
    for (key, value) in keyed(dir.read_opt("memory.stat", buffer)?.unwrap_or_default()) {
        match key {
            "total_rss" => stats.rss = value,
            "total_cache" => stats.cache = value,
            "total_mapped_file" => stats.mapped_file = value,
            "total_pgfault" => stats.page_faults = value,
            "total_pgmajfault" => stats.major_page_faults = value,
            "total_active_file" => stats.active_file = value,
            "total_inactive_file" => stats.inactive_file = value,
            // Only where swap is accounted.
            "total_swap" => swap = Some(value),
            "hierarchical_memory_limit" => lowest = Some(value),
            "hierarchical_memsw_limit" => lowest_total = Some(value),
            _ => {}
        }
    }
    let limit = cached.memory.at_least(lowest, dir, "memory.limit_in_bytes")?;
    if detail.more {
        stats.max_usage = dir.read_number("memory.max_usage_in_bytes")?;
        stats.limit_hits = limit_hits_v1(dir, limit, cached)?;
        stats.kernel = dir.read_number("memory.kmem.usage_in_bytes")?.unwrap_or_default();
    }
    if detail.oom_kills {
        stats.oom_kills = oom_kills(dir, "memory.oom_control")?;
    }
    let swap = match swap {
        Some(usage) => {
            // v1 limits memory and swap together.
            let total = cached.swap.at_least(lowest_total, dir, "memory.memsw.limit_in_bytes")?;
            let limit = total.zip(limit).map(|(total, memory)| total.saturating_sub(memory));
            Some(SwapStats { usage, limit })
        }
        None => None,
    };
    Ok((finish(stats, limit), swap))
}

/// A cgroup without a limit hits none: the number stays the same.
fn limit_hits_v1(dir: &Dir, limit: Option<u64>, cached: &mut CachedLimits) -> Result<u64, CgroupError> {
    if let (None, Some(hits)) = (limit, cached.limit_hits) {
        return Ok(hits);
    }
    let hits = dir.read_number("memory.failcnt")?.unwrap_or_default();
    cached.limit_hits = limit.is_none().then_some(hits);
    Ok(hits)
}

fn finish(mut stats: MemoryStats, limit: Option<u64>) -> MemoryStats {
    // The two are counted apart, so the difference can be below zero for a moment.
    stats.working_set = stats.usage.saturating_sub(stats.inactive_file);
    stats.limit = limit;
    stats.available = limit.map(|limit| limit.saturating_sub(stats.working_set));
    stats
}

/// `oom_kill` of memory.events (v2) or memory.oom_control (v1).
pub(super) fn oom_kills(dir: &Dir, file: &'static str) -> Result<u64, CgroupError> {
    let mut buffer = [0u8; 512];
    let text = dir.read_opt(file, &mut buffer)?.unwrap_or_default();
    Ok(keyed(text).find(|(key, _)| *key == "oom_kill").map_or(0, |(_, value)| value))
}
