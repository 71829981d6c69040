use oci_spec::runtime::Capability;
use serde_json::{Value, json};

use super::arch::Arch;
use super::bpf::{AND, Insn, JUMP, JUMP_EQ, JUMP_GE, JUMP_GT, LOAD, RETURN};
use super::profile::Context;
use super::*;

const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;

fn errno(n: u32) -> u32 {
    0x0005_0000 | n
}

/// Runs a program as the kernel does, with the instructions that seccomp allows.
fn run(program: &[Insn], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_le_bytes());
    data.extend(arch.to_le_bytes());
    data.extend(0u64.to_le_bytes());
    for arg in args {
        data.extend(arg.to_le_bytes());
    }
    let (mut a, mut at) = (0u32, 0);
    loop {
        let insn = program[at];
        at += 1;
        let test = match insn.code {
            LOAD => {
                let offset = insn.k as usize;
                a = u32::from_le_bytes(data[offset..offset + 4].try_into().unwrap());
                continue;
            }
            AND => {
                a &= insn.k;
                continue;
            }
            JUMP => {
                at += insn.k as usize;
                continue;
            }
            RETURN => return insn.k,
            JUMP_EQ => a == insn.k,
            JUMP_GT => a > insn.k,
            JUMP_GE => a >= insn.k,
            code => panic!("code {code:#x}"),
        };
        at += usize::from(if test { insn.jump_true } else { insn.jump_false });
    }
}

fn program(profile: &LinuxSeccomp) -> Vec<Insn> {
    filter::program(profile, Arch::native()).unwrap()
}

fn profile_of(json: &Value) -> LinuxSeccomp {
    serde_json::from_value(json.clone()).unwrap()
}

/// The verdict on a call by name, on the native architecture.
fn verdict(program: &[Insn], name: &str, args: [u64; 6]) -> u32 {
    let arch = Arch::native();
    run(program, arch.audit(), table::number(arch, name).unwrap(), args)
}

#[test]
fn each_comparison_decides_on_all_64_bits() {
    const EDGES: [u64; 9] = [0, 1, 5, 6, 0xffff_ffff, 1 << 32, (1 << 32) + 5, (5 << 32) + 5, u64::MAX];
    for (op, holds) in [
        ("SCMP_CMP_EQ", (|a, b| a == b) as fn(u64, u64) -> bool),
        ("SCMP_CMP_NE", |a, b| a != b),
        ("SCMP_CMP_LT", |a, b| a < b),
        ("SCMP_CMP_LE", |a, b| a <= b),
        ("SCMP_CMP_GT", |a, b| a > b),
        ("SCMP_CMP_GE", |a, b| a >= b),
    ] {
        for value in EDGES {
            let program = program(&profile_of(&json!({
                "defaultAction": "SCMP_ACT_ERRNO",
                "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 3, "value": value, "op": op}]}]
            })));
            for arg in EDGES {
                let expected = if holds(arg, value) { ALLOW } else { errno(1) };
                assert_eq!(
                    verdict(&program, "read", [9, 9, 9, arg, 9, 9]),
                    expected,
                    "{arg:#x} {op} {value:#x}"
                );
            }
        }
    }
}

#[test]
fn masks_look_at_their_bits_only() {
    let program = program(&profile_of(&json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 0xf_0000_000fu64, "valueTwo": 0x1_0000_0002u64, "op": "SCMP_CMP_MASKED_EQ"}]}]
    })));
    for (arg, allowed) in
        [(0x1_0000_0002u64, true), (0xf1_0000_00f2, true), (2, false), (0x1_0000_0003, false)]
    {
        assert_eq!(verdict(&program, "read", [arg, 0, 0, 0, 0, 0]) == ALLOW, allowed, "{arg:#x}");
    }
}

#[test]
fn rules_of_one_call_are_asked_in_order() {
    let program = program(&profile_of(&json!({
        "defaultAction": "SCMP_ACT_KILL_PROCESS",
        "syscalls": [
            {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 97, "args": [
                {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 3, "op": "SCMP_CMP_EQ"}]},
            {"names": ["socket", "no_such_call"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 10, "op": "SCMP_CMP_EQ"}]},
            {"names": ["socket"], "action": "SCMP_ACT_TRAP"},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW"}
        ]
    })));
    let socket = |family, kind| verdict(&program, "socket", [family, kind, 0, 0, 0, 0]);
    assert_eq!(socket(2, 3), errno(97), "all conditions on different arguments");
    assert_eq!((socket(2, 1), socket(10, 1)), (ALLOW, ALLOW), "any of those on one argument");
    assert_eq!(socket(1, 1), 0x0003_0000, "the first without conditions ends it");
    assert_eq!(verdict(&program, "read", [0; 6]), KILL_PROCESS);
}

#[test]
fn foreign_calls_never_pass() {
    let deny_list = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ERRNO"}]
    });
    let program = program(&profile_of(&deny_list));
    assert_eq!(verdict(&program, "mount", [0; 6]), errno(1));
    assert_eq!(run(&program, 0x4000_0003, 21, [0; 6]), KILL_PROCESS);
    if Arch::native() == Arch::X86_64 {
        assert_eq!(run(&program, Arch::X86_64.audit(), 0x4000_0000 | 165, [0; 6]), KILL_PROCESS, "x32");
    }
    assert_eq!(run(&program, Arch::native().audit(), 9999, [0; 6]), ALLOW);
}

#[test]
fn long_jumps_work() {
    // Every call with conditions of its own: about 3000 instructions, far more than 255.
    let calls: Vec<_> = table::names().take(300).collect();
    let rules: Vec<_> = calls
        .iter()
        .enumerate()
        .map(|(i, name)| {
            json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": [{"index": 1, "value": i, "op": "SCMP_CMP_EQ"}]})
        })
        .collect();
    let program = program(&profile_of(&json!({"defaultAction": "SCMP_ACT_LOG", "syscalls": rules})));
    assert!(program.len() > 1000 && program.len() < 4096, "{}", program.len());
    for (i, name) in calls.iter().enumerate() {
        if table::number(Arch::native(), name).is_some() {
            assert_eq!(verdict(&program, name, [0, i as u64, 0, 0, 0, 0]), ALLOW, "{name}");
            assert_eq!(verdict(&program, name, [0, i as u64 + 1, 0, 0, 0, 0]), 0x7ffc_0000, "{name}");
        }
    }
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    /// Returns mostly small values, sometimes values around the edges of 32 bits.
    fn value(&mut self) -> u64 {
        let edge = [0, 1 << 32, 0xffff_ffff, 5 << 32][self.roll(4) as usize];
        edge + self.roll(3)
    }
}

fn random_profile(dice: &mut Dice, calls: &[&str]) -> Value {
    const ACTIONS: [&str; 4] = ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRAP", "SCMP_ACT_KILL_PROCESS"];
    const OPS: [&str; 7] = ["EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ"];
    let rules: Vec<Value> = (0..dice.roll(60))
        .map(|_| {
            let names: Vec<&str> =
                (0..1 + dice.roll(5)).map(|_| calls[dice.roll(calls.len() as u64) as usize]).collect();
            let args: Vec<Value> = (0..dice.roll(4))
                .map(|index| {
                    let op = format!("SCMP_CMP_{}", OPS[dice.roll(7) as usize]);
                    json!({"index": index, "value": dice.value(), "valueTwo": dice.value(), "op": op})
                })
                .collect();
            json!({"names": names, "action": ACTIONS[dice.roll(4) as usize], "args": args})
        })
        .collect();
    json!({"defaultAction": ACTIONS[dice.roll(4) as usize], "syscalls": rules})
}

/// Finds the action in the profile, by a simple implementation: the action of the first rule with the call
/// whose conditions match.
fn plain_verdict(profile: &LinuxSeccomp, name: &str, args: [u64; 6]) -> u32 {
    use oci_spec::runtime::LinuxSeccompOperator as Op;
    let holds = |arg: &oci_spec::runtime::LinuxSeccompArg| {
        let narrow = condition::is_narrow(name, arg.index());
        let seen = |value: u64| if narrow { value & 0xffff_ffff } else { value };
        let (actual, value) = (seen(args[arg.index()]), seen(arg.value()));
        match arg.op() {
            Op::ScmpCmpEq => actual == value,
            Op::ScmpCmpNe => actual != value,
            Op::ScmpCmpLt => actual < value,
            Op::ScmpCmpLe => actual <= value,
            Op::ScmpCmpGt => actual > value,
            Op::ScmpCmpGe => actual >= value,
            Op::ScmpCmpMaskedEq => actual & value == seen(arg.value_two().unwrap()) & value,
        }
    };
    let rules = profile.syscalls().iter().flatten();
    let mut matching = rules
        .filter(|rule| rule.names().iter().any(|n| n == name) && rule.args().iter().flatten().all(holds));
    matching.next().map_or(profile.default_action(), |rule| rule.action()).as_u32(None)
}

#[test]
fn programs_decide_as_a_plain_reading_of_their_profiles() {
    let mut dice = Dice(1);
    let calls: Vec<&str> = table::names().filter(|n| table::number(Arch::native(), n).is_some()).collect();
    for _ in 0..150 {
        let some: Vec<&str> = (0..25).map(|_| calls[dice.roll(calls.len() as u64) as usize]).collect();
        let profile = profile_of(&random_profile(&mut dice, &some));
        let program = program(&profile);
        for _ in 0..200 {
            let name = some[dice.roll(25) as usize];
            let args = std::array::from_fn(|_| dice.value());
            assert_eq!(
                verdict(&program, name, args) & 0xffff_0000,
                plain_verdict(&profile, name, args) & 0xffff_0000,
                "{name} {args:x?} {profile:?}"
            );
        }
    }
}

#[test]
fn what_cannot_be_done_is_refused() {
    for (json, expected) in [
        (
            json!({"defaultAction": "SCMP_ACT_TRACE"}),
            "linux.seccomp.defaultAction: SCMP_ACT_TRACE is not supported",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}),
            "linux.seccomp.syscalls[0].action: SCMP_ACT_NOTIFY",
        ),
        (json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5000}), "errno 5000 is above"),
        (json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}), "linux.seccomp.listenerPath"),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG",
                "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}),
            "there is no argument 6",
        ),
    ] {
        let error = to_bpf(&profile_of(&json)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

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

/// The attack of CVE-2019-10063.
#[test]
fn a_denied_ioctl_cannot_be_had_by_the_upper_half_of_its_number() {
    const TIOCSTI: u64 = 0x5412;
    let program = program(&profile_of(&json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": TIOCSTI, "op": "SCMP_CMP_EQ"}]}]
    })));
    for number in [TIOCSTI, TIOCSTI | 1 << 32] {
        assert_eq!(verdict(&program, "ioctl", [0, number, 0, 0, 0, 0]), errno(1), "{number:#x}");
    }
    assert_eq!(verdict(&program, "ioctl", [0, 0x5413, 0, 0, 0, 0]), ALLOW);
}

#[test]
fn a_misspelt_name_in_a_deny_list_is_refused() {
    let profile = |default: &str, action: &str, name: &str| {
        to_bpf(&profile_of(&json!({
            "defaultAction": default,
            "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG"}, {"names": ["mount", name], "action": action}]
        })))
    };
    let error = profile("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "unmount").unwrap_err().to_string();
    assert!(error.starts_with("linux.seccomp.syscalls[1].names: \"unmount\" is not a known"), "{error}");
    assert!(profile("SCMP_ACT_LOG", "SCMP_ACT_KILL_PROCESS", "unmount").is_err());
    // Calls of other architectures are not mistakes; and in a profile that denies by default, an unknown name
    // allows nothing.
    for name in ["s390_pci_mmio_read", "cacheflush", "stime", "spu_run"] {
        profile("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", name).unwrap();
    }
    profile("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", "unmount").unwrap();
    profile("SCMP_ACT_ERRNO", "SCMP_ACT_ERRNO", "unmount").unwrap();
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

/// Any content of a profile's file gives a profile or an error.
#[test]
fn damaged_profiles_never_panic() {
    let mut dice = Dice(7);
    let calls: Vec<&str> = table::names().collect();
    let context = Context { capabilities: &Capabilities::default(), kernel: (6, 1) };
    for _ in 0..300 {
        let mut bytes = serde_json::to_vec(&random_profile(&mut dice, &calls)).unwrap();
        for _ in 0..1 + dice.roll(4) {
            let at = dice.roll(bytes.len() as u64) as usize;
            match dice.roll(3) {
                0 => bytes[at] = dice.roll(256) as u8,
                1 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, b"0123456789[]{},:\"-e."[dice.roll(20) as usize]),
            }
        }
        if let Ok(profile) = profile::parse(&bytes, &context) {
            let _ = compile(&profile);
        }
    }
    for extreme in [
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{"index":18446744073709551615,"value":18446744073709551615,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#,
        r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":4294967295}"#,
        r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"99999999999999999999.1"}}]}"#,
    ] {
        if let Ok(profile) = profile::parse(extreme.as_bytes(), &context) {
            assert!(compile(&profile).is_err(), "{extreme}");
        }
    }
}

#[test]
fn dockers_format_is_read_with_its_conditions() {
    let text = br#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "comment": "c", "args": null, "includes": {}, "excludes": {}},
            {"name": "write", "action": "SCMP_ACT_ALLOW"},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["vm86"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}}
        ]}"#;
    let names = |caps: &Capabilities, kernel| {
        let profile = profile::parse(text, &Context { capabilities: caps, kernel }).unwrap();
        profile.syscalls().iter().flatten().flat_map(|s| s.names().clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&Capabilities::default(), (4, 7)), ["read", "write", "clone3"]);
    let admin = Capabilities::from([Capability::SysAdmin]);
    assert_eq!(names(&admin, (4, 10)), ["read", "write", "mount", "ptrace"]);
}

#[test]
fn a_bad_profile_is_named_with_its_fault() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.json");
    let load = || load_profile(&path, &Capabilities::default()).unwrap_err().to_string();
    assert!(load().starts_with(&format!("seccomp profile {}: ", path.display())));
    for (text, expected) in [
        ("{", "EOF"),
        ("{}", "missing field `defaultAction`"),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","syscals":[]}"#, "unknown field `syscals`"),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"action":"SCMP_ACT_ALLOW"}]}"#, "names no call"),
        (r#"{"defaultAction":"SCMP_ACT_MAYBE"}"#, "unknown variant"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = load();
        assert!(error.contains(expected) && error.contains("p.json"), "{error}");
    }
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
