//! The usage of a cgroup.

use serde::{Deserialize, Serialize};

/// The parts that are read in addition to usage, limits and pressure. Those that are not read stay 0 or None.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detail {
    /// High-water marks, events, bytes per device, and on v1 CPU time by user and system and the memory of the
    /// kernel.
    pub more: bool,
    /// Periods of the CPU quota. On v2 always.
    pub throttling: bool,
    /// Processes killed for lack of memory. On v2 with `more`.
    pub oom_kills: bool,
    /// Whether limits that were read before are not read again: for a cgroup whose limits no other program sets.
    pub cached_limits: bool,
}

impl Detail {
    pub const USAGE: Self = Self { more: false, throttling: false, oom_kills: false, cached_limits: false };
    pub const ALL: Self = Self { more: true, throttling: true, oom_kills: true, cached_limits: false };
}

/// One reading of all counters of a cgroup. A part is None if the host has no controller for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Nanoseconds since the epoch at which the reading was taken.
    pub timestamp_ns: i64,
    pub cpu: Option<CpuStats>,
    pub memory: Option<MemoryStats>,
    pub swap: Option<SwapStats>,
    pub pids: Option<PidsStats>,
    pub io: Option<IoStats>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuStats {
    /// CPU time used since the cgroup exists, nanoseconds.
    pub usage_ns: u64,
    pub user_ns: u64,
    pub system_ns: u64,
    /// Enforcement periods that passed, those in which the quota ran out, and the time lost by it.
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_ns: u64,
    /// Periods in which more than the quota was used, saved up before, and that time.
    pub bursts: u64,
    pub burst_ns: u64,
    pub psi: Option<Psi>,
}

/// Bytes, but for the faults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStats {
    pub usage: u64,
    /// Usage without the page cache that can be dropped at once (inactive file pages).
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    pub cache: u64,
    pub mapped_file: u64,
    /// Pages of files that were used recently, and those that were not.
    pub active_file: u64,
    pub inactive_file: u64,
    /// Kernel memory for these processes, if the kernel counts it.
    pub kernel: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    /// None: no limit.
    pub limit: Option<u64>,
    /// Limit less working set; None without a limit.
    pub available: Option<u64>,
    /// The highest usage so far, if the kernel reports it.
    pub max_usage: Option<u64>,
    /// Times the limit was hit.
    pub limit_hits: u64,
    /// Processes killed for lack of memory.
    pub oom_kills: u64,
    pub psi: Option<Psi>,
}

/// Bytes of swap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwapStats {
    pub usage: u64,
    /// None: no limit.
    pub limit: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PidsStats {
    pub current: u64,
    /// None: no limit.
    pub limit: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoStats {
    pub devices: Vec<IoDeviceStats>,
    pub psi: Option<Psi>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoDeviceStats {
    pub major: u32,
    pub minor: u32,
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

/// Pressure stall information: how long processes waited for a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Psi {
    /// At least one process waited.
    pub some: PsiLine,
    /// All processes waited.
    pub full: PsiLine,
}

/// Averages in hundredths of a percent over 10, 60 and 300 seconds; total in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PsiLine {
    pub avg10: u32,
    pub avg60: u32,
    pub avg300: u32,
    pub total_us: u64,
}
