//! Limits as they are requested, before the conversion to a hierarchy's units.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxNetwork, LinuxResources,
};
use serde::{Deserialize, Serialize};

use super::error::CgroupError;

/// All limits of one cgroup. `None` leaves the kernel's value as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    pub cpu: Cpu,
    pub memory: Memory,
    pub cpuset: Cpuset,
    pub io: BlockIo,
    /// Maximal number of processes and threads; -1 (or 0, as in CRI) for no limit.
    pub pids: Option<i64>,
    pub hugepages: Vec<HugepageLimit>,
    pub rdma: Vec<RdmaLimit>,
    /// cgroup v2 files, written unchanged after all others.
    pub unified: BTreeMap<String, String>,
    /// The whole device policy, in order; later rules override earlier ones. None for no change.
    pub devices: Option<Vec<DeviceRule>>,
}

/// CPU time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// v1 units (1024 = one share of normal weight); 0 is the same as none.
    pub shares: Option<u64>,
    /// Microseconds of CPU per period; -1 for no limit, 0 is the same as none.
    pub quota: Option<i64>,
    /// Microseconds; 0 is the same as none.
    pub period: Option<u64>,
    /// Microseconds that may be saved up.
    pub burst: Option<u64>,
    pub idle: Option<bool>,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// -1 for no limit, 0 is the same as none.
    pub limit: Option<i64>,
    /// Memory plus swap, as in the OCI spec and CRI; -1 for no limit, 0 is the same as none.
    pub swap: Option<i64>,
    /// Soft limit: v1 `soft_limit_in_bytes`, v2 `memory.low`.
    pub reservation: Option<i64>,
    /// v1 only.
    pub swappiness: Option<u64>,
    /// Kill all processes of the cgroup when one is OOM-killed (v2 only; v1 kernels cannot).
    pub oom_group: Option<bool>,
    /// Refuse a limit below the present usage, instead of letting processes be killed.
    pub check_before_update: bool,
}

/// CPUs and memory nodes by number, in the kernel's list format (`0-3,7`). Empty is the same as none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpuset {
    pub cpus: Option<String>,
    pub mems: Option<String>,
}

/// Reading from and writing to block devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlockIo {
    /// From 10 to 1000: the share of a busy device.
    pub weight: Option<u16>,
    pub weights: Vec<IoWeight>,
    pub rates: Vec<IoRate>,
}

/// The share of one device, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoWeight {
    pub major: u32,
    pub minor: u32,
    /// From 10 to 1000.
    pub weight: u16,
}

/// The limit of one device, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoRate {
    pub major: u32,
    pub minor: u32,
    pub kind: IoRateKind,
    /// Per second; 0 for no limit.
    pub rate: u64,
}

/// The counted unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum IoRateKind {
    ReadBytes,
    WriteBytes,
    Reads,
    Writes,
}

/// A limit for one size of huge pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugepageLimit {
    /// As in the kernel's file names: `2MB`, `1GB`.
    pub page_size: String,
    pub limit: u64,
}

/// A limit for one network adapter with remote memory access.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RdmaLimit {
    /// As the kernel names it: `mlx5_0`.
    pub device: String,
    /// None: not changed.
    pub handles: Option<u32>,
    /// None: not changed.
    pub objects: Option<u32>,
}

/// One line of the device policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    pub allow: bool,
    pub kind: DeviceKind,
    /// None: any.
    pub major: Option<u32>,
    /// None: any.
    pub minor: Option<u32>,
    pub access: Access,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    All,
    Char,
    Block,
}

/// The allowed kinds of access to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    pub read: bool,
    pub write: bool,
    pub mknod: bool,
}

impl Access {
    pub const ALL: Self = Self { read: true, write: true, mknod: true };
}

impl Resources {
    /// From `linux.resources` of an OCI spec.
    ///
    /// # Errors
    /// [`CgroupError::Invalid`] naming the field that is malformed or not supported.
    pub fn from_spec(spec: &LinuxResources) -> Result<Self, CgroupError> {
        refuse_unsupported(spec)?;
        let mut out = Self { pids: spec.pids().map(|p| p.limit()), ..Self::default() };
        if let Some(cpu) = spec.cpu() {
            out.cpu = Cpu::from_spec(cpu)?;
            out.cpuset = Cpuset { cpus: cpu.cpus().clone(), mems: cpu.mems().clone() };
        }
        if let Some(memory) = spec.memory() {
            out.memory = Memory::from_spec(memory)?;
        }
        for limit in spec.hugepage_limits().iter().flatten() {
            let bytes = u64::try_from(limit.limit())
                .map_err(|_| invalid("linux.resources.hugepageLimits", "a limit is negative"))?;
            out.hugepages.push(HugepageLimit { page_size: limit.page_size().clone(), limit: bytes });
        }
        if let Some(io) = spec.block_io() {
            out.io = BlockIo::from_spec(io)?;
        }
        for (device, limit) in spec.rdma().iter().flatten() {
            out.rdma.push(RdmaLimit::from_spec(device, limit)?);
        }
        out.unified = spec.unified().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        // An empty list means an update without devices, not a policy.
        if let Some(rules) = spec.devices().as_ref().filter(|rules| !rules.is_empty()) {
            let rules = rules.iter().enumerate().map(|(i, rule)| DeviceRule::from_spec(i, rule));
            out.devices = Some(rules.collect::<Result<_, _>>()?);
        }
        Ok(out)
    }
}

impl Cpu {
    fn from_spec(cpu: &LinuxCpu) -> Result<Self, CgroupError> {
        if cpu.realtime_runtime().is_some_and(|v| v != 0) || cpu.realtime_period().is_some_and(|v| v != 0) {
            return Err(invalid(
                "linux.resources.cpu.realtimeRuntime",
                "realtime scheduling is not supported",
            ));
        }
        Ok(Self {
            shares: cpu.shares(),
            quota: cpu.quota(),
            period: cpu.period(),
            burst: cpu.burst(),
            idle: cpu.idle().map(|v| v != 0),
        })
    }
}

impl Memory {
    fn from_spec(memory: &LinuxMemory) -> Result<Self, CgroupError> {
        if memory.disable_oom_killer() == Some(true) {
            return Err(invalid(
                "linux.resources.memory.disableOOMKiller",
                "is not supported: a container without memory would hang instead of being restarted",
            ));
        }
        if memory.kernel().is_some_and(|v| v > 0) {
            return Err(invalid(
                "linux.resources.memory.kernel",
                "is not supported: kernels have no such limit",
            ));
        }
        if memory.use_hierarchy() == Some(false) {
            return Err(invalid("linux.resources.memory.useHierarchy", "false is not supported"));
        }
        if memory.kernel_tcp().is_some_and(|v| v > 0) {
            return Err(invalid("linux.resources.memory.kernelTCP", "is not supported"));
        }
        Ok(Self {
            limit: memory.limit(),
            swap: memory.swap(),
            reservation: memory.reservation(),
            swappiness: memory.swappiness(),
            oom_group: None,
            check_before_update: memory.check_before_update().unwrap_or(false),
        })
    }
}

fn refuse_unsupported(spec: &LinuxResources) -> Result<(), CgroupError> {
    let is_set = |network: &LinuxNetwork| {
        network.class_id().is_some_and(|id| id != 0)
            || network.priorities().as_ref().is_some_and(|priorities| !priorities.is_empty())
    };
    match spec.network().as_ref().filter(|network| is_set(network)) {
        Some(_) => Err(invalid("linux.resources.network", "is not supported: it is of cgroup v1 only")),
        None => Ok(()),
    }
}

impl DeviceRule {
    /// Everything denied: the usual first rule.
    pub const DENY_ALL: Self =
        Self { allow: false, kind: DeviceKind::All, major: None, minor: None, access: Access::ALL };
    /// Everything allowed: the only rule of a privileged container.
    pub const ALLOW_ALL: Self = Self { allow: true, ..Self::DENY_ALL };

    fn from_spec(index: usize, rule: &LinuxDeviceCgroup) -> Result<Self, CgroupError> {
        let field = |name: &str| format!("linux.resources.devices[{index}].{name}");
        let kind = match rule.typ() {
            None | Some(LinuxDeviceType::A) => DeviceKind::All,
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => DeviceKind::Char,
            Some(LinuxDeviceType::B) => DeviceKind::Block,
            Some(LinuxDeviceType::P) => return Err(invalid(field("type"), "p is not a device")),
        };
        let number = |name: &str, value: Option<i64>| match value {
            None | Some(-1) => Ok(None),
            Some(n) => {
                u32::try_from(n).map(Some).map_err(|_| invalid(field(name), format!("{n} is out of range")))
            }
        };
        let access = match rule.access().as_deref() {
            None | Some("") => Access::ALL,
            Some(text) => Access::parse(text)
                .ok_or_else(|| invalid(field("access"), format!("{text:?} is not of r, w, m")))?,
        };
        let (major, minor) = (number("major", rule.major())?, number("minor", rule.minor())?);
        Ok(Self { allow: rule.allow(), kind, major, minor, access })
    }
}

impl Access {
    /// From `rwm` in any order; None for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let known = !text.is_empty() && text.bytes().all(|b| matches!(b, b'r' | b'w' | b'm'));
        known.then(|| Self { read: text.contains('r'), write: text.contains('w'), mknod: text.contains('m') })
    }
}

pub(super) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> CgroupError {
    CgroupError::Invalid { field: field.into(), reason: reason.into() }
}
