//! Sets user, groups and capabilities, in the only order in which each step still has the rights that it
//! needs.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, capabilities, set_capabilities, set_keep_capabilities,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::error::{At, Stage, StageError};
use super::report::Reporter;
use crate::plan::{Capabilities, Process};
use crate::sys;

/// Numbers of capabilities are below this, whatever the kernel.
const NUMBERS: u32 = 64;

/// Names of capability numbers, capabilities(7), as far as they exist today.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

fn name(number: u32) -> String {
    NAMES.get(number as usize).map_or_else(|| format!("capability {number}"), |name| format!("CAP_{name}"))
}

/// The capabilities for becoming the user, entering the working directory and setting limits.
const LAUNCH: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SYS_RESOURCE);

/// The capabilities for making a container's root, mounts and devices.
pub(crate) const FOR_ROOT: CapabilitySet = LAUNCH
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::MKNOD);

/// The capabilities for joining a container's namespaces: to join those of a process, the caller must be
/// allowed to inspect that process.
pub(crate) const FOR_JOIN: CapabilitySet =
    LAUNCH.union(CapabilitySet::SYS_CHROOT).union(CapabilitySet::SYS_ADMIN).union(CapabilitySet::SYS_PTRACE);

/// The capabilities for the rest of the setup, once the process is in its root.
pub(crate) fn for_launch(process: &Process) -> CapabilitySet {
    // Loading a filter without no_new_privs requires it.
    let filter = process.seccomp.is_some() && !process.no_new_privileges;
    if filter { LAUNCH.union(CapabilitySet::SYS_ADMIN) } else { LAUNCH }
}

/// Drops every capability that neither the process nor the rest of its setup needs.
pub(crate) fn give_up_all_but(process: &Process, needs: CapabilitySet) -> Result<(), StageError> {
    let had = capabilities(None).at(Stage::Capabilities, "read our own")?.permitted;
    let wanted = &process.capabilities;
    let kept = (needs.bits() | wanted.permitted | wanted.inheritable) & had.bits();
    // None inheritable means none ambient either.
    set(&Capabilities { effective: kept, permitted: kept, ..Capabilities::default() })
}

/// The capabilities to drop after the seccomp filter is loaded.
pub(crate) struct Remaining(Option<Capabilities>);

/// Becomes the process's user. If a filter will be loaded without no_new_privs, the right to load it
/// (CAP_SYS_ADMIN) is kept until [`Remaining::finish`].
pub(crate) fn adopt(process: &Process, reporter: &Reporter) -> Result<Remaining, StageError> {
    let had = capabilities(None).at(Stage::Capabilities, "read our own")?.permitted;
    let wanted = within(&process.capabilities, had.bits(), reporter);
    if process.uid != 0 {
        set_keep_capabilities(true).at(Stage::Capabilities, "keep them over the change of user")?;
    }
    become_user(process)?;
    let admin = CapabilitySet::SYS_ADMIN.bits();
    let keep = match process.seccomp {
        Some(_) if !process.no_new_privileges && wanted.effective & admin == 0 => had.bits() & admin,
        _ => 0,
    };
    let now =
        Capabilities { effective: wanted.effective | keep, permitted: wanted.permitted | keep, ..wanted };
    set(&now)?;
    for number in bits(wanted.ambient) {
        sys::raise_ambient(number).at(Stage::Capabilities, format_args!("ambient {}", name(number)))?;
    }
    Ok(Remaining((keep != 0).then_some(wanted)))
}

impl Remaining {
    /// Drops the capabilities that were kept.
    pub(crate) fn finish(&self) -> Result<(), StageError> {
        self.0.as_ref().map_or(Ok(()), set)
    }
}

fn become_user(process: &Process) -> Result<(), StageError> {
    let groups: Vec<Gid> = process.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
    set_thread_groups(&groups).at(Stage::User, format_args!("supplementary groups {:?}", process.groups))?;
    let gid = Gid::from_raw(process.gid);
    set_thread_res_gid(gid, gid, gid).at(Stage::User, format_args!("group {}", process.gid))?;
    let uid = Uid::from_raw(process.uid);
    set_thread_res_uid(uid, uid, uid).at(Stage::User, format_args!("user {}", process.uid))
}

/// Leaves out capabilities that the runtime itself lacks, with a note.
fn within(wanted: &Capabilities, had: u64, reporter: &Reporter) -> Capabilities {
    let missing = (wanted.permitted | wanted.inheritable) & !had;
    if missing != 0 {
        let names: Vec<String> = bits(missing).map(name).collect();
        let why = format!("{}: not given, as the runtime does not have it itself", names.join(", "));
        reporter.note(Stage::Capabilities, why);
    }
    Capabilities {
        bounding: wanted.bounding,
        effective: wanted.effective & had,
        permitted: wanted.permitted & had,
        inheritable: wanted.inheritable & had,
        ambient: wanted.ambient & had,
    }
}

/// Drops the capabilities that the process must not have from the bounding set.
pub(crate) fn drop_bounding(process: &Process) -> Result<(), StageError> {
    for number in bits(!process.capabilities.bounding) {
        match sys::drop_bounding(number) {
            Ok(()) => {}
            // After the last one that this kernel knows.
            Err(Errno::INVAL) => return Ok(()),
            Err(errno) => {
                let subject = format!("drop {}", name(number));
                return Err(StageError::new(Stage::Capabilities, errno, subject));
            }
        }
    }
    Ok(())
}

fn set(sets: &Capabilities) -> Result<(), StageError> {
    let sets = CapabilitySets {
        effective: CapabilitySet::from_bits_retain(sets.effective),
        permitted: CapabilitySet::from_bits_retain(sets.permitted),
        inheritable: CapabilitySet::from_bits_retain(sets.inheritable),
    };
    set_capabilities(None, sets).at(Stage::Capabilities, "effective, permitted and inheritable")
}

fn bits(mask: u64) -> impl Iterator<Item = u32> {
    (0..NUMBERS).filter(move |n| mask & (1 << n) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_at_their_numbers() {
        assert_eq!(name(0), "CAP_CHOWN");
        assert_eq!(name(CapabilitySet::SYS_ADMIN.bits().trailing_zeros()), "CAP_SYS_ADMIN");
        assert_eq!(name(CapabilitySet::CHECKPOINT_RESTORE.bits().trailing_zeros()), "CAP_CHECKPOINT_RESTORE");
        assert_eq!(name(63), "capability 63");
    }
}
