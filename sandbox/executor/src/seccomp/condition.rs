//! Compares 64-bit arguments on a machine with 32-bit words.

use oci_spec::runtime::{LinuxSeccompArg, LinuxSeccompOperator as Op};

use super::bpf::{AND, Insn, JUMP_EQ, JUMP_GE, JUMP_GT, LOAD, argument_offsets, jump, op};

/// A comparison of one argument of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    arg: LinuxSeccompArg,
    /// The kernel takes this argument as a number of 32 bits and ignores the upper half of the register.
    narrow: bool,
}

/// Arguments that are `int` or `unsigned int` to the kernel (the prototypes of linux/syscalls.h), of the
/// calls that profiles usually filter by argument. A comparison of all 64 bits could be evaded by a
/// value in the upper half (as CVE-2019-10063 did with an ioctl).
const NARROW: [(&str, &[usize]); 22] = [
    ("arch_prctl", &[0]),
    ("bpf", &[0]),
    ("fanotify_init", &[0, 1]),
    ("fcntl", &[0, 1]),
    ("fcntl64", &[0, 1]),
    ("futex", &[1]),
    ("getsockopt", &[0, 1, 2]),
    ("ioctl", &[0, 1]),
    ("keyctl", &[0]),
    ("kill", &[0, 1]),
    ("open", &[1]),
    ("openat", &[0, 2]),
    ("personality", &[0]),
    ("prctl", &[0]),
    ("quotactl", &[0]),
    ("reboot", &[0, 1, 2]),
    ("seccomp", &[0, 1]),
    ("setns", &[0, 1]),
    ("setsockopt", &[0, 1, 2]),
    ("socket", &[0, 1, 2]),
    ("socketcall", &[0]),
    ("socketpair", &[0, 1, 2]),
];

pub(super) fn is_narrow(call: &str, index: usize) -> bool {
    NARROW.iter().any(|(name, indices)| *name == call && indices.contains(&index))
}

impl Condition {
    pub(super) fn new(call: &str, arg: LinuxSeccompArg) -> Self {
        Self { arg, narrow: is_narrow(call, arg.index()) }
    }

    fn steps(&self) -> Vec<Step> {
        if self.narrow { low_steps(&self.arg) } else { steps(&self.arg) }
    }
}

/// The next place after a test.
#[derive(Clone, Copy)]
enum To {
    /// The next instruction.
    Next,
    /// The end of this condition.
    Pass,
    /// The end of the whole rule.
    Fail,
}

struct Step {
    insn: Insn,
    yes: To,
    no: To,
}

/// Compiles one rule: when all conditions hold, `action`; otherwise the program continues after the block,
/// with the block of the next rule.
pub(super) fn rule(conditions: &[Condition], action: Insn) -> Vec<Insn> {
    let blocks: Vec<Vec<Step>> = conditions.iter().map(Condition::steps).collect();
    let total = blocks.iter().map(Vec::len).sum::<usize>() + 1;
    let mut code = Vec::with_capacity(total);
    for steps in blocks {
        let end = code.len() + steps.len();
        for step in steps {
            let here = code.len() + 1;
            // At most 6 conditions of at most 6 steps, so every distance fits.
            let distance = |to: To| match to {
                To::Next => 0,
                To::Pass => u8::try_from(end - here).unwrap_or(u8::MAX),
                To::Fail => u8::try_from(total - here).unwrap_or(u8::MAX),
            };
            let mut insn = step.insn;
            if insn.code & 7 == JUMP_EQ & 7 {
                insn = jump(insn.code, insn.k, distance(step.yes), distance(step.no));
            }
            code.push(insn);
        }
    }
    code.push(action);
    code
}

fn halves(value: u64) -> (u32, u32) {
    #[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
    let low = value as u32;
    (low, (value >> 32) as u32)
}

fn plain(insn: Insn) -> Step {
    Step { insn, yes: To::Next, no: To::Next }
}

fn test(code: u16, k: u32, yes: To, no: To) -> Step {
    Step { insn: op(code, k), yes, no }
}

/// Compares only the low half.
fn low_steps(arg: &LinuxSeccompArg) -> Vec<Step> {
    let (low_at, _) = argument_offsets(u32::try_from(arg.index()).unwrap_or(0));
    let (low, _) = halves(arg.value());
    let load = plain(op(LOAD, low_at));
    match arg.op() {
        Op::ScmpCmpEq => vec![load, test(JUMP_EQ, low, To::Pass, To::Fail)],
        Op::ScmpCmpNe => vec![load, test(JUMP_EQ, low, To::Fail, To::Pass)],
        Op::ScmpCmpGt => vec![load, test(JUMP_GT, low, To::Pass, To::Fail)],
        Op::ScmpCmpGe => vec![load, test(JUMP_GE, low, To::Pass, To::Fail)],
        Op::ScmpCmpLt => vec![load, test(JUMP_GE, low, To::Fail, To::Pass)],
        Op::ScmpCmpLe => vec![load, test(JUMP_GT, low, To::Fail, To::Pass)],
        Op::ScmpCmpMaskedEq => {
            let (wanted, _) = halves(arg.value_two().unwrap_or(0) & arg.value());
            vec![load, plain(op(AND, low)), test(JUMP_EQ, wanted, To::Pass, To::Fail)]
        }
    }
}

fn steps(arg: &LinuxSeccompArg) -> Vec<Step> {
    let (low_at, high_at) = argument_offsets(u32::try_from(arg.index()).unwrap_or(0));
    let (low, high) = halves(arg.value());
    let (load_high, load_low) = (|| plain(op(LOAD, high_at)), || plain(op(LOAD, low_at)));
    match arg.op() {
        Op::ScmpCmpEq => vec![
            load_high(),
            test(JUMP_EQ, high, To::Next, To::Fail),
            load_low(),
            test(JUMP_EQ, low, To::Pass, To::Fail),
        ],
        Op::ScmpCmpNe => vec![
            load_high(),
            test(JUMP_EQ, high, To::Next, To::Pass),
            load_low(),
            test(JUMP_EQ, low, To::Fail, To::Pass),
        ],
        Op::ScmpCmpGt | Op::ScmpCmpGe => vec![
            load_high(),
            test(JUMP_GT, high, To::Pass, To::Next),
            test(JUMP_EQ, high, To::Next, To::Fail),
            load_low(),
            test(if arg.op() == Op::ScmpCmpGt { JUMP_GT } else { JUMP_GE }, low, To::Pass, To::Fail),
        ],
        Op::ScmpCmpLt | Op::ScmpCmpLe => vec![
            load_high(),
            test(JUMP_GT, high, To::Fail, To::Next),
            test(JUMP_EQ, high, To::Next, To::Pass),
            load_low(),
            test(if arg.op() == Op::ScmpCmpLt { JUMP_GE } else { JUMP_GT }, low, To::Fail, To::Pass),
        ],
        Op::ScmpCmpMaskedEq => {
            // `value` is the mask, `valueTwo` the expected result.
            let (want_low, want_high) = halves(arg.value_two().unwrap_or(0) & arg.value());
            vec![
                load_high(),
                plain(op(AND, high)),
                test(JUMP_EQ, want_high, To::Next, To::Fail),
                load_low(),
                plain(op(AND, low)),
                test(JUMP_EQ, want_low, To::Pass, To::Fail),
            ]
        }
    }
}
