//! The decisions of programs, on each form of rule.

use super::*;

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
