//! CPU time and throttling.

use crisp_executor::cgroup::CpuStats;

use super::family::Kind::{Counter, Gauge};
use super::family::{Family, Samples, Value};
use crate::container::config::Resources;

const USAGE: Family = Family {
    name: "container_cpu_usage_seconds_total",
    help: "CPU time used, in seconds.",
    kind: Counter,
    labels: &["cpu"],
};
const USER: Family = Family {
    name: "container_cpu_user_seconds_total",
    help: "CPU time used in user space, in seconds.",
    kind: Counter,
    labels: &[],
};
const SYSTEM: Family = Family {
    name: "container_cpu_system_seconds_total",
    help: "CPU time used in the kernel, in seconds.",
    kind: Counter,
    labels: &[],
};
const PERIODS: Family = Family {
    name: "container_cpu_cfs_periods_total",
    help: "Periods of the CPU quota that have passed.",
    kind: Counter,
    labels: &[],
};
const THROTTLED_PERIODS: Family = Family {
    name: "container_cpu_cfs_throttled_periods_total",
    help: "Periods in which the CPU quota ran out.",
    kind: Counter,
    labels: &[],
};
const THROTTLED: Family = Family {
    name: "container_cpu_cfs_throttled_seconds_total",
    help: "Time lost to the CPU quota, in seconds.",
    kind: Counter,
    labels: &[],
};
const BURSTS: Family = Family {
    name: "container_cpu_cfs_burst_periods_total",
    help: "Periods in which more than the CPU quota was used.",
    kind: Counter,
    labels: &[],
};
const BURST: Family = Family {
    name: "container_cpu_cfs_burst_seconds_total",
    help: "CPU time used beyond the quota of a period, in seconds.",
    kind: Counter,
    labels: &[],
};
const PERIOD: Family = Family {
    name: "container_spec_cpu_period",
    help: "Period of the CPU quota, in microseconds.",
    kind: Gauge,
    labels: &[],
};
const QUOTA: Family = Family {
    name: "container_spec_cpu_quota",
    help: "CPU quota, in microseconds per period.",
    kind: Gauge,
    labels: &[],
};
const SHARES: Family = Family {
    name: "container_spec_cpu_shares",
    help: "CPU shares, of which 1024 are one CPU's.",
    kind: Gauge,
    labels: &[],
};

pub(super) const FAMILIES: &[Family] =
    &[USAGE, USER, SYSTEM, PERIODS, THROTTLED_PERIODS, THROTTLED, BURSTS, BURST, PERIOD, QUOTA, SHARES];

/// The kernel's default.
const DEFAULT_PERIOD: u64 = 100_000;

/// `has_quota`: whether periods are counted.
pub(super) fn usage(stats: &CpuStats, has_quota: bool, samples: &mut impl Samples) {
    samples.add(&USAGE, &["total"], Value::Nanoseconds(stats.usage_ns));
    samples.add(&USER, &[], Value::Nanoseconds(stats.user_ns));
    samples.add(&SYSTEM, &[], Value::Nanoseconds(stats.system_ns));
    if has_quota {
        samples.add(&PERIODS, &[], Value::Count(stats.periods));
        samples.add(&THROTTLED_PERIODS, &[], Value::Count(stats.throttled_periods));
        samples.add(&THROTTLED, &[], Value::Nanoseconds(stats.throttled_ns));
        samples.add(&BURSTS, &[], Value::Count(stats.bursts));
        samples.add(&BURST, &[], Value::Nanoseconds(stats.burst_ns));
    }
}

pub(super) fn limits(resources: &Resources, samples: &mut impl Samples) {
    samples.add(&PERIOD, &[], Value::Count(resources.cpu_period.unwrap_or(DEFAULT_PERIOD)));
    if let Some(quota) = resources.cpu_quota.filter(|quota| *quota > 0) {
        samples.add(&QUOTA, &[], Value::Signed(quota));
    }
    if let Some(shares) = resources.cpu_shares {
        samples.add(&SHARES, &[], Value::Count(shares));
    }
}
