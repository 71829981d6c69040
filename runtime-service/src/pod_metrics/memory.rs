//! Memory, swap, and failures for lack of memory.

use crisp_executor::cgroup::{MemoryStats, SwapStats};

use super::family::Kind::{Counter, Gauge};
use super::family::{Family, Samples, Value};

const USAGE: Family = Family {
    name: "container_memory_usage_bytes",
    help: "Memory in use, the page cache included.",
    kind: Gauge,
    labels: &[],
};
const WORKING_SET: Family = Family {
    name: "container_memory_working_set_bytes",
    help: "Memory in use without the inactive part of the page cache.",
    kind: Gauge,
    labels: &[],
};
const RSS: Family =
    Family { name: "container_memory_rss", help: "Anonymous memory, in bytes.", kind: Gauge, labels: &[] };
const CACHE: Family =
    Family { name: "container_memory_cache", help: "Page cache, in bytes.", kind: Gauge, labels: &[] };
const MAPPED: Family = Family {
    name: "container_memory_mapped_file",
    help: "Mapped files in memory, in bytes.",
    kind: Gauge,
    labels: &[],
};
const ACTIVE_FILE: Family = Family {
    name: "container_memory_total_active_file_bytes",
    help: "Page cache that was used of late.",
    kind: Gauge,
    labels: &[],
};
const INACTIVE_FILE: Family = Family {
    name: "container_memory_total_inactive_file_bytes",
    help: "Page cache that was not used of late.",
    kind: Gauge,
    labels: &[],
};
const KERNEL: Family = Family {
    name: "container_memory_kernel_usage",
    help: "Memory of the kernel for these processes, in bytes.",
    kind: Gauge,
    labels: &[],
};
const SWAP: Family =
    Family { name: "container_memory_swap", help: "Swap in use, in bytes.", kind: Gauge, labels: &[] };
const MAX_USAGE: Family = Family {
    name: "container_memory_max_usage_bytes",
    help: "Greatest use of memory so far.",
    kind: Gauge,
    labels: &[],
};
const FAILCNT: Family = Family {
    name: "container_memory_failcnt",
    help: "Times that the memory limit was hit.",
    kind: Counter,
    labels: &[],
};
const FAILURES: Family = Family {
    name: "container_memory_failures_total",
    help: "Page faults.",
    kind: Counter,
    labels: &["failure_type", "scope"],
};
const OOM: Family = Family {
    name: "container_oom_events_total",
    help: "Processes killed for the lack of memory.",
    kind: Counter,
    labels: &[],
};
const LIMIT: Family = Family {
    name: "container_spec_memory_limit_bytes",
    help: "Memory limit; 0 for none.",
    kind: Gauge,
    labels: &[],
};
const SWAP_LIMIT: Family = Family {
    name: "container_spec_memory_swap_limit_bytes",
    help: "Limit of swap, on cgroup v1 of memory and swap together; 0 for none.",
    kind: Gauge,
    labels: &[],
};

pub(super) const FAMILIES: &[Family] = &[
    USAGE,
    WORKING_SET,
    RSS,
    CACHE,
    MAPPED,
    ACTIVE_FILE,
    INACTIVE_FILE,
    KERNEL,
    SWAP,
    MAX_USAGE,
    FAILCNT,
    FAILURES,
    OOM,
    LIMIT,
    SWAP_LIMIT,
];

pub(super) fn usage(memory: &MemoryStats, swap: Option<&SwapStats>, samples: &mut impl Samples) {
    for (family, bytes) in [
        (&USAGE, memory.usage),
        (&WORKING_SET, memory.working_set),
        (&RSS, memory.rss),
        (&CACHE, memory.cache),
        (&MAPPED, memory.mapped_file),
        (&ACTIVE_FILE, memory.active_file),
        (&INACTIVE_FILE, memory.inactive_file),
        (&KERNEL, memory.kernel),
        (&SWAP, swap.map_or(0, |swap| swap.usage)),
        (&FAILCNT, memory.limit_hits),
        (&MAX_USAGE, memory.max_usage.unwrap_or(0)),
    ] {
        samples.add(family, &[], Value::Count(bytes));
    }
    // The kernel counts them for a cgroup together with those below it.
    for scope in ["container", "hierarchy"] {
        samples.add(&FAILURES, &["pgfault", scope], Value::Count(memory.page_faults));
        samples.add(&FAILURES, &["pgmajfault", scope], Value::Count(memory.major_page_faults));
    }
}

/// Only for a container: for a pod, v2 would count those of its containers again, and v1 has none.
pub(super) fn oom_kills(memory: &MemoryStats, samples: &mut impl Samples) {
    samples.add(&OOM, &[], Value::Count(memory.oom_kills));
}

/// The limits in force. v2 has a separate swap limit, v1 one for memory and swap together.
pub(super) fn limits(
    memory: &MemoryStats,
    swap: Option<&SwapStats>,
    is_v2: bool,
    samples: &mut impl Samples,
) {
    let swap = swap.and_then(|swap| swap.limit);
    let swap = match (is_v2, memory.limit) {
        (true, _) => swap,
        (false, memory) => memory.zip(swap).map(|(memory, swap)| memory.saturating_add(swap)),
    };
    samples.add(&LIMIT, &[], Value::Count(memory.limit.unwrap_or(0)));
    samples.add(&SWAP_LIMIT, &[], Value::Count(swap.unwrap_or(0)));
}
