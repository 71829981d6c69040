//! `process.capabilities`: converts names to bits.

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use super::CompileError;
use super::field::invalid;
use crate::plan;

/// Every capability in the kernel's order: the position is the number (linux/capability.h).
pub const BY_NUMBER: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// Converts a set to a bit mask, bit n for capability number n.
#[must_use]
pub fn mask(set: &Capabilities) -> u64 {
    BY_NUMBER.iter().enumerate().filter(|(_, c)| set.contains(c)).fold(0, |bits, (n, _)| bits | 1 << n)
}

/// Converts the sets. A set that is missing in the spec is empty.
pub(super) fn capabilities(given: Option<&LinuxCapabilities>) -> Result<plan::Capabilities, CompileError> {
    let Some(given) = given else { return Ok(plan::Capabilities::default()) };
    let bits = |set: &Option<Capabilities>| set.as_ref().map_or(0, mask);
    let sets = plan::Capabilities {
        bounding: bits(given.bounding()),
        effective: bits(given.effective()),
        permitted: bits(given.permitted()),
        inheritable: bits(given.inheritable()),
        ambient: bits(given.ambient()),
    };
    within("permitted", sets.permitted, "bounding", sets.bounding)?;
    within("effective", sets.effective, "permitted", sets.permitted)?;
    within("inheritable", sets.inheritable, "bounding", sets.bounding)?;
    // capabilities(7): the kernel keeps an ambient capability only when both other sets have it.
    within("ambient", sets.ambient, "permitted", sets.permitted)?;
    within("ambient", sets.ambient, "inheritable", sets.inheritable)?;
    Ok(sets)
}

fn within(name: &str, set: u64, outer_name: &str, outer: u64) -> Result<(), CompileError> {
    let extra = set & !outer;
    if extra == 0 {
        return Ok(());
    }
    let first =
        BY_NUMBER.get(extra.trailing_zeros() as usize).map_or_else(String::new, |c| format!("CAP_{c}"));
    Err(invalid(format!("process.capabilities.{name}"), format!("{first} is not in {outer_name}")))
}
