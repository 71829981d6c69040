//! The profile for RuntimeDefault.

use oci_spec::runtime::Capability;

use super::*;

#[test]
fn the_default_profile_decides_as_operators_expect() {
    let none = program(&runtime_default(&Capabilities::default()));
    let admin = program(&runtime_default(&Capabilities::from([Capability::SysAdmin])));
    let with = |program: &[Insn], name: &str, arg: u64| verdict(program, name, [arg, 0, 0, 0, 0, 0]);
    for name in
        ["read", "openat2", "execve", "futex_waitv", "ptrace", "memfd_create", "landlock_restrict_self"]
    {
        assert_eq!(with(&none, name, 0), ALLOW, "{name}");
    }
    for name in
        ["mount", "bpf", "setns", "unshare", "reboot", "init_module", "add_key", "io_uring_setup", "chroot"]
    {
        assert_eq!(with(&none, name, 0), errno(1), "{name}");
    }
    assert_eq!((with(&admin, "mount", 0), with(&admin, "clone3", 0)), (ALLOW, ALLOW));
    assert_eq!(with(&none, "clone3", 0), errno(38), "C libraries fall back to clone");
    assert_eq!(with(&none, "clone", 0x0121_0011), ALLOW, "threads and forks");
    assert_eq!(with(&none, "clone", 0x1000_0011), errno(1), "a user namespace");
    assert_eq!((with(&none, "socket", 2), with(&none, "socket", 40)), (ALLOW, errno(1)), "no AF_VSOCK");
    assert_eq!(
        (with(&none, "personality", 0xffff_ffff), with(&none, "personality", 0x4_0000)),
        (ALLOW, errno(1))
    );
    assert_eq!(run(&none, Arch::native().audit(), 460_000, [0; 6]), errno(38), "newer than the profile");
    if Arch::native() == Arch::X86_64 {
        assert_eq!(run(&none, Arch::X86.audit(), 3, [0; 6]), ALLOW, "read of a 32-bit program");
        assert_eq!(run(&none, Arch::X86.audit(), 21, [0; 6]), errno(1), "mount of a 32-bit program");
        assert_eq!(run(&none, Arch::X86_64.audit(), 0x4000_0000, [0; 6]), errno(1), "x32");
    }
    assert!(none.len() < 500, "{}", none.len());
}

#[test]
fn no_way_leads_to_a_vsock() {
    let default = program(&runtime_default(&Capabilities::default()));
    // The kernel takes the family as an int: the upper half of the register does not count.
    for family in [40, 40 | 1 << 32, 40 | 0xffff_ffff << 32] {
        assert_eq!(verdict(&default, "socket", [family, 1, 0, 0, 0, 0]), errno(1), "{family:#x}");
    }
    for family in [1, 2, 10, 16, 2 | 1 << 32] {
        assert_eq!(verdict(&default, "socket", [family, 1, 0, 0, 0, 0]), ALLOW, "{family:#x}");
    }
    let x86 =
        filter::program(&default::profile(&Capabilities::default(), Arch::X86_64), Arch::X86_64).unwrap();
    let socketcall = |call: u64| run(&x86, Arch::X86.audit(), 102, [call, 0, 0, 0, 0, 0]);
    assert_eq!((socketcall(1), socketcall(1 | 1 << 32)), (errno(38), errno(38)), "its family is in memory");
    assert_eq!((socketcall(2), socketcall(17)), (ALLOW, ALLOW), "bind, recvmsg");
    assert_eq!(run(&x86, Arch::X86.audit(), 359, [40, 0, 0, 0, 0, 0]), errno(1));
    assert_eq!(run(&x86, Arch::X86.audit(), 359, [2, 0, 0, 0, 0, 0]), ALLOW);
}

#[test]
fn programs_of_32_bit_arm_run_under_the_default_profile_of_arm64() {
    let profile = default::profile(&Capabilities::default(), Arch::Aarch64);
    let program = filter::program(&profile, Arch::Aarch64).unwrap();
    let call = |name: &str| run(&program, Arch::Arm.audit(), table::number(Arch::Arm, name).unwrap(), [2; 6]);
    for name in ["read", "mmap2", "set_tls", "cacheflush", "clock_gettime64", "recv", "socket", "ugetrlimit"]
    {
        assert_eq!(call(name), ALLOW, "{name}");
    }
    for name in ["mount", "bpf", "add_key"] {
        assert_eq!(call(name), errno(1), "{name}");
    }
    assert_eq!(run(&program, Arch::Arm.audit(), 900, [0; 6]), errno(38), "newer than the profile");
    assert_eq!(run(&program, Arch::Arm.audit(), 281, [40, 0, 0, 0, 0, 0]), errno(1), "AF_VSOCK");
    assert_eq!(run(&program, Arch::Aarch64.audit(), 63, [0; 6]), ALLOW, "and those of 64-bit arm");
    assert!(program.len() < 600, "{}", program.len());
}

/// Loads the filter into the kernel, in a thread of its own.
#[test]
fn the_kernel_takes_the_program_and_obeys() {
    let seccomp = to_bpf(&runtime_default(&Capabilities::default())).unwrap();
    let again = to_bpf(&runtime_default(&Capabilities::default())).unwrap();
    assert_eq!(seccomp, again);
    let worker = std::thread::spawn(move || {
        rustix::thread::set_no_new_privs(true).unwrap();
        // A filter binds only the thread that loads it, and this thread ends with the test.
        crate::sys::load_seccomp(&seccomp.program, seccomp.flags).unwrap();
        let hostname = rustix::system::sethostname(b"x").unwrap_err();
        let vsock = rustix::net::socket(
            rustix::net::AddressFamily::from_raw(40),
            rustix::net::SocketType::STREAM,
            None,
        );
        let pipe = rustix::pipe::pipe().is_ok();
        (hostname, vsock.unwrap_err(), pipe)
    });
    let (hostname, vsock, pipe) = worker.join().unwrap();
    assert_eq!((hostname, vsock, pipe), (rustix::io::Errno::PERM, rustix::io::Errno::PERM, true));
}

#[test]
fn the_default_profile_fits_into_the_kernel_and_is_the_same_each_time() {
    let profile = runtime_default(&Capabilities::default());
    let first = to_bpf(&profile).unwrap();
    // BPF_MAXINSNS of 8 bytes each.
    assert!(first.program.len() <= 4096 * 8, "{} bytes", first.program.len());
    assert_eq!(first.program, compile(&profile).unwrap().program);
    assert_eq!(first.program, to_bpf(&profile).unwrap().program);
}
