//! Comparisons of 64-bit arguments by a machine with 32-bit words.

use oci_spec::runtime::{LinuxSeccompArg, LinuxSeccompOperator as Op};

use super::bpf::{AND, Insn, JUMP_EQ, JUMP_GE, JUMP_GT, LOAD, argument_offsets, jump, op};

/// Where a test goes on to.
#[derive(Clone, Copy)]
enum To {
    /// The next instruction.
    Next,
    /// Past the end of this condition.
    Pass,
    /// Past the end of the whole rule.
    Fail,
}

struct Step {
    insn: Insn,
    yes: To,
    no: To,
}

/// One rule: when all conditions hold, `action`; else on past the end of the block, where the next
/// rule's block starts.
pub(super) fn rule(conditions: &[LinuxSeccompArg], action: Insn) -> Vec<Insn> {
    let blocks: Vec<Vec<Step>> = conditions.iter().map(steps).collect();
    let total = blocks.iter().map(Vec::len).sum::<usize>() + 1;
    let mut code = Vec::with_capacity(total);
    for steps in blocks {
        let end = code.len() + steps.len();
        for step in steps {
            let here = code.len() + 1;
            // At most 6 conditions of at most 6 steps: every distance fits.
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

fn steps(arg: &LinuxSeccompArg) -> Vec<Step> {
    let (low_at, high_at) = argument_offsets(u32::try_from(arg.index()).unwrap_or(0));
    let (low, high) = halves(arg.value());
    let plain = |insn| Step { insn, yes: To::Next, no: To::Next };
    let test = |code, k, yes, no| Step { insn: op(code, k), yes, no };
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
            // value is the mask, valueTwo what must be left under it.
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
