//! The profile for RuntimeDefault: all calls of the kernel except for those that can harm the host or other
//! containers. A capability allows the calls that it is for.
//!
//! The lists below contain the calls that are *not* always allowed. The profile that is made from them lists
//! the allowed calls, so a call that is in no list and not in `table.rs` is refused: with ENOSYS when it is
//! newer than all calls of the table.

use oci_spec::runtime::{
    Arch as SpecArch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg,
    LinuxSeccompArgBuilder, LinuxSeccompOperator as Op, LinuxSyscall,
};

use super::arch::Arch;
use super::table;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Calls that this profile never allows.
const NEVER: &[&str] = &[
    // Keys are not namespaced.
    "add_key",
    "keyctl",
    "request_key",
    // Swap files and new kernels.
    "kexec_file_load",
    "kexec_load",
    "swapoff",
    "swapon",
    // The origin of many of the kernel's vulnerabilities; containers that need them bring a profile.
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "userfaultfd",
    // Removed from the kernel, or never in it.
    "_sysctl",
    "afs_syscall",
    "bdflush",
    "break",
    "create_module",
    "ftime",
    "get_kernel_syms",
    "getpmsg",
    "gtty",
    "idle",
    "lock",
    "mpx",
    "nfsservctl",
    "pciconfig_iobase",
    "pciconfig_read",
    "pciconfig_write",
    "prof",
    "profil",
    "putpmsg",
    "query_module",
    "security",
    "stty",
    "sysfs",
    "tuxcall",
    "ulimit",
    "uselib",
    "usr26",
    "usr32",
    "ustat",
    "vm86",
    "vm86old",
    "vserver",
];

/// Calls that are allowed with a capability.
const BY_CAPABILITY: &[(Capability, &[&str])] = &[
    (Capability::DacReadSearch, &["open_by_handle_at"]),
    (
        Capability::SysAdmin,
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "listmount",
            "lookup_dcookie",
            "lsm_set_self_attr",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "open_tree_attr",
            "perf_event_open",
            "pivot_root",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "statmount",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    (Capability::SysBoot, &["reboot"]),
    (Capability::SysChroot, &["chroot"]),
    (Capability::SysModule, &["delete_module", "finit_module", "init_module"]),
    (Capability::SysPacct, &["acct"]),
    (Capability::SysRawio, &["ioperm", "iopl"]),
    (Capability::SysTime, &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    (Capability::SysTtyConfig, &["vhangup"]),
    (
        Capability::SysNice,
        &[
            "get_mempolicy",
            "mbind",
            "migrate_pages",
            "move_pages",
            "set_mempolicy",
            "set_mempolicy_home_node",
        ],
    ),
    (Capability::SysPtrace, &["kcmp", "pidfd_getfd", "process_madvise"]),
    (Capability::Syslog, &["syslog"]),
    (Capability::Bpf, &["bpf"]),
    (Capability::Perfmon, &["perf_event_open"]),
];

/// Calls that are allowed or refused by their arguments.
const BY_ARGUMENT: &[&str] = &["clone", "clone3", "personality", "socket", "socketcall"];

/// Makes the profile for containers that have these capabilities (the bounding set).
#[must_use]
pub(super) fn profile(capabilities: &Capabilities, native: Arch) -> LinuxSeccomp {
    let mut rules = vec![rule(free(capabilities), Action::ScmpActAllow, None, vec![])];
    rules.extend(by_argument(capabilities));
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(Action::ScmpActErrno)
        .set_default_errno_ret(Some(EPERM))
        .set_architectures(Some(architectures(native)))
        .set_syscalls(Some(rules));
    profile
}

/// The native architecture, and that of the 32-bit programs that it can run.
fn architectures(native: Arch) -> Vec<SpecArch> {
    match native {
        Arch::Aarch64 | Arch::Arm => vec![SpecArch::ScmpArchAarch64, SpecArch::ScmpArchArm],
        Arch::X86_64 | Arch::X86 => vec![SpecArch::ScmpArchX86_64, SpecArch::ScmpArchX86],
    }
}

/// Returns the names of the calls that are allowed with any arguments.
fn free(capabilities: &Capabilities) -> Vec<&'static str> {
    let granted = |name: &str| {
        BY_CAPABILITY.iter().any(|(cap, calls)| capabilities.contains(cap) && calls.contains(&name))
    };
    let restricted = |name: &str| BY_CAPABILITY.iter().any(|(_, calls)| calls.contains(&name));
    table::names()
        .filter(|name| !NEVER.contains(name) && !BY_ARGUMENT.contains(name))
        .filter(|name| !restricted(name) || granted(name))
        .collect()
}

fn by_argument(capabilities: &Capabilities) -> Vec<LinuxSyscall> {
    // Linux, Linux with UNAME26, 32-bit, 32-bit with UNAME26, and the query of the present one. Other values
    // (for example no address randomization) help an attacker.
    const PERSONALITIES: [u64; 5] = [0x0, 0x2_0000, 0x8, 0x2_0008, 0xffff_ffff];
    // The channel of a hypervisor to its guests. It has no namespaces.
    const AF_VSOCK: u64 = 40;
    // SYS_SOCKET of linux/net.h. Its family is in memory, which no filter can read; C libraries have
    // preferred the direct call since Linux 4.3.
    const SOCKETCALL_SOCKET: u64 = 1;
    // NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
    const NEW_NAMESPACES: u64 = 0x7e02_0000;

    let same = |value| argument(0, Op::ScmpCmpEq, value, None);
    let mut rules = vec![
        rule(vec!["personality"], Action::ScmpActAllow, None, PERSONALITIES.map(same).to_vec()),
        rule(vec!["socket"], Action::ScmpActAllow, None, vec![argument(0, Op::ScmpCmpNe, AF_VSOCK, None)]),
        rule(vec!["socketcall"], Action::ScmpActErrno, Some(ENOSYS), vec![same(SOCKETCALL_SOCKET)]),
        rule(vec!["socketcall"], Action::ScmpActAllow, None, vec![]),
    ];
    if capabilities.contains(&Capability::SysAdmin) {
        rules.push(rule(vec!["clone", "clone3"], Action::ScmpActAllow, None, vec![]));
    } else {
        let plain = argument(0, Op::ScmpCmpMaskedEq, NEW_NAMESPACES, Some(0));
        rules.push(rule(vec!["clone"], Action::ScmpActAllow, None, vec![plain]));
        // The flags of clone3 are in memory, which no filter can read. C libraries use clone after ENOSYS.
        rules.push(rule(vec!["clone3"], Action::ScmpActErrno, Some(ENOSYS), vec![]));
    }
    rules
}

fn rule(names: Vec<&str>, action: Action, errno: Option<u32>, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.into_iter().map(str::to_owned).collect())
        .set_action(action)
        .set_errno_ret(errno)
        .set_args((!args.is_empty()).then_some(args));
    rule
}

fn argument(index: usize, op: Op, value: u64, value_two: Option<u64>) -> LinuxSeccompArg {
    let argument = LinuxSeccompArgBuilder::default().index(index).op(op).value(value);
    let argument = match value_two {
        Some(two) => argument.value_two(two),
        None => argument,
    };
    argument.build().expect("every field has a default")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_in_the_lists_is_a_call() {
        let listed = BY_CAPABILITY.iter().flat_map(|(_, calls)| calls.iter()).chain(NEVER).chain(BY_ARGUMENT);
        for name in listed {
            assert!(table::names().any(|n| n == *name), "{name}");
        }
    }

    #[test]
    fn what_is_free_does_not_grow_unseen() {
        // A new row in the table must be reviewed: count it here, or list it above.
        let none = free(&Capabilities::default());
        assert_eq!((table::names().count(), none.len()), (482, 385));
        assert!(!none.contains(&"mount") && !none.contains(&"bpf") && none.contains(&"openat2"));
        let admin = free(&Capabilities::from([Capability::SysAdmin]));
        assert!(admin.contains(&"mount") && !admin.contains(&"kexec_load"));
    }
}
