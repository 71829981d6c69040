//! cpu and cpuacct: shares, quota, and usage.

use rustix::io::Errno;

use super::dir::{Dir, keyed};
use super::error::CgroupError;
use super::psi;
use super::resources::{Cpu, invalid};
use super::stats::{CpuStats, Detail};

/// The largest v1 shares and v2 weight.
const MAX_SHARES: u64 = 262_144;
const MAX_WEIGHT: u64 = 10_000;

/// A v1 share count as a v2 weight.
///
/// The curve through (2, 1), (1024, 100) and (262144, 10000), so that a default cgroup of v1 is a
/// default one of v2, and the ratio between small pods is kept; it is what the kubelet and the other
/// runtimes use since 2025 (before: a line, which gave 1024 shares the weight 39).
pub(super) fn weight(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= MAX_SHARES {
        return MAX_WEIGHT;
    }
    #[expect(clippy::cast_precision_loss, reason = "shares are below 2^18 here")]
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    // The small step down keeps 1024 at exactly 100 against rounding.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 10000")]
    let weight = (10f64.powf(exponent) - 1e-9).ceil() as u64;
    weight.clamp(1, MAX_WEIGHT)
}

pub(super) fn apply_v2(dir: &Dir, cpu: &Cpu) -> Result<(), CgroupError> {
    apply_weight(dir, cpu, ("cpu.weight", weight))?;
    let (quota, period) = (cpu.quota.filter(|q| *q != 0), cpu.period.filter(|p| *p != 0));
    let mut max = None;
    if quota.is_some() || period.is_some() {
        let quota = match quota {
            Some(quota) if quota > 0 => quota.to_string(),
            Some(_) => "max".to_owned(),
            None => current_quota(dir)?,
        };
        max = Some(period.map_or_else(|| quota.clone(), |period| format!("{quota} {period}")));
    }
    write_related(dir, [("cpu.max", max), ("cpu.max.burst", cpu.burst.map(|burst| burst.to_string()))])
}

/// `cpu.max` accepts a period only together with a quota.
fn current_quota(dir: &Dir) -> Result<String, CgroupError> {
    let mut buffer = [0u8; 64];
    let text = dir.read("cpu.max", &mut buffer)?;
    Ok(text.split_whitespace().next().unwrap_or("max").to_owned())
}

pub(super) fn apply_v1(dir: &Dir, cpu: &Cpu) -> Result<(), CgroupError> {
    apply_weight(dir, cpu, ("cpu.shares", |shares| shares.clamp(2, MAX_SHARES)))?;
    let period = cpu.period.filter(|p| *p != 0).map(|p| p.to_string());
    let quota = cpu.quota.filter(|q| *q != 0).map(|q| q.max(-1).to_string());
    let burst = cpu.burst.map(|burst| burst.to_string());
    write_related(
        dir,
        [("cpu.cfs_period_us", period), ("cpu.cfs_quota_us", quota), ("cpu.cfs_burst_us", burst)],
    )
}

/// The weight of an idle cgroup cannot be set.
fn apply_weight(
    dir: &Dir,
    cpu: &Cpu,
    (file, weight): (&str, impl Fn(u64) -> u64),
) -> Result<(), CgroupError> {
    if let Some(idle) = cpu.idle {
        dir.write("cpu.idle", if idle { "1" } else { "0" })?;
    }
    match cpu.shares.filter(|shares| *shares != 0 && cpu.idle != Some(true)) {
        Some(shares) => dir.write(file, &weight(shares).to_string()),
        None => Ok(()),
    }
}

/// Writes files that the kernel checks against each other's present values (and the parent's ratio): a
/// refused one may be accepted after another one.
fn write_related<const N: usize>(dir: &Dir, files: [(&str, Option<String>); N]) -> Result<(), CgroupError> {
    let mut files: Vec<_> = files.into_iter().filter_map(|(file, value)| Some((file, value?))).collect();
    while !files.is_empty() {
        let (count, mut refused) = (files.len(), Vec::new());
        for (file, value) in files {
            match dir.try_write(file, &value) {
                Ok(()) => {}
                Err(Errno::INVAL) => refused.push((file, value)),
                Err(errno) => return Err(dir.write_error(file, &value, errno)),
            }
        }
        if let Some((file, value)) = refused.first().filter(|_| refused.len() == count) {
            return Err(dir.write_error(file, value, Errno::INVAL));
        }
        files = refused;
    }
    Ok(())
}

/// Refuses limits that no kernel supports, before anything is written.
pub(super) fn check(cpu: &Cpu) -> Result<(), CgroupError> {
    if cpu.quota.is_some_and(|q| q > 0 && q < 1000) {
        return Err(invalid("cpu quota", "the smallest is 1000 us"));
    }
    if cpu.period.is_some_and(|p| p != 0 && !(1000..=1_000_000).contains(&p)) {
        return Err(invalid("cpu period", "it must be between 1000 and 1000000 us"));
    }
    Ok(())
}

pub(super) fn stats_v2(dir: &Dir, buffer: &mut [u8]) -> Result<CpuStats, CgroupError> {
    let mut stats = CpuStats::default();
    for (key, value) in keyed(dir.read("cpu.stat", buffer)?) {
        match key {
            "usage_usec" => stats.usage_ns = value.saturating_mul(1000),
            "user_usec" => stats.user_ns = value.saturating_mul(1000),
            "system_usec" => stats.system_ns = value.saturating_mul(1000),
            "nr_periods" => stats.periods = value,
            "nr_throttled" => stats.throttled_periods = value,
            "throttled_usec" => stats.throttled_ns = value.saturating_mul(1000),
            "nr_bursts" => stats.bursts = value,
            "burst_usec" => stats.burst_ns = value.saturating_mul(1000),
            _ => {}
        }
    }
    stats.psi = psi::read(dir, "cpu.pressure", buffer)?;
    Ok(stats)
}

/// `acct` is the folder in the cpuacct hierarchy, `cpu` the one in the cpu hierarchy: often the same.
pub(super) fn stats_v1(
    acct: Option<&Dir>,
    cpu: Option<&Dir>,
    detail: Detail,
    buffer: &mut [u8],
) -> Result<CpuStats, CgroupError> {
    let mut stats = CpuStats::default();
    if let Some(acct) = acct {
        stats.usage_ns = acct.read_number("cpuacct.usage")?.unwrap_or_default();
    }
    if let Some(acct) = acct.filter(|_| detail.more) {
        // USER_HZ is 100 on every architecture that containers run on.
        for (key, ticks) in keyed(acct.read_opt("cpuacct.stat", buffer)?.unwrap_or_default()) {
            match key {
                "user" => stats.user_ns = ticks * 10_000_000,
                "system" => stats.system_ns = ticks * 10_000_000,
                _ => {}
            }
        }
    }
    if let Some(cpu) = cpu.filter(|_| detail.throttling) {
        for (key, value) in keyed(cpu.read_opt("cpu.stat", buffer)?.unwrap_or_default()) {
            match key {
                "nr_periods" => stats.periods = value,
                "nr_throttled" => stats.throttled_periods = value,
                "throttled_time" => stats.throttled_ns = value,
                "nr_bursts" => stats.bursts = value,
                "burst_time" => stats.burst_ns = value,
                _ => {}
            }
        }
    }
    Ok(stats)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_keep_the_ends_and_the_default() {
        for (shares, expected) in [
            (0, 1),
            (2, 1),
            (102, 17),
            (512, 59),
            (1024, 100),
            (2048, 174),
            (262_144, 10_000),
            (999_999, 10_000),
        ] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
        assert!((3..262_144).step_by(7).all(|s| weight(s) <= weight(s + 7)));
    }
}
