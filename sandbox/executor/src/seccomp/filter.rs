//! Compiles a profile to a program: the architecture, then a binary search over the call numbers, then the
//! rules of the call.
//!
//! ```text
//!  arch == native? -- number >= n/2? -- ... -- rule 1 -- rule 2 -- otherwise
//!         |no
//!  arch == x86?    -- ...
//!         |no
//!  foreign
//! ```
//!
//! Neighbouring numbers with the same verdict are one range, so a list of 350 allowed calls is about 60
//! ranges, and 7 comparisons decide a call.

use std::collections::BTreeMap;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSyscall};

use super::SeccompError;
use super::arch::{Arch, X32_BIT};
use super::bpf::{
    Insn, JUMP_EQ, JUMP_GE, LOAD, MAX_INSTRUCTIONS, OFFSET_ARCH, OFFSET_NUMBER, RETURN, branch, op,
};
use super::condition::{self, Condition};
use super::table;

/// The largest errno that a filter may return (MAX_ERRNO).
const MAX_ERRNO: u32 = 4095;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_KILL_THREAD: u32 = 0;
const RET_TRAP: u32 = 0x0003_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_ALLOW: u32 = 0x7fff_0000;

/// The action for a call: that of the first rule whose conditions match, otherwise `otherwise`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    rules: Vec<(Vec<Condition>, u32)>,
    otherwise: u32,
}

impl Verdict {
    fn code(&self) -> Vec<Insn> {
        let mut code = Vec::new();
        for (conditions, action) in &self.rules {
            code.extend(condition::rule(conditions, op(RETURN, *action)));
        }
        code.push(op(RETURN, self.otherwise));
        code
    }
}

/// Makes the program for machines whose native calls are those of `native`.
pub(super) fn program(profile: &LinuxSeccomp, native: Arch) -> Result<Vec<Insn>, SeccompError> {
    let default = action("defaultAction", profile.default_action(), profile.default_errno_ret())?;
    refuse_vain_denials(profile, default)?;
    let mut code = vec![op(RETURN, foreign(default))];
    let archs = native.of_profile(profile.architectures().as_deref().unwrap_or_default());
    for arch in archs.into_iter().rev() {
        code = branch(JUMP_EQ, arch.audit(), arch_code(profile, arch, default)?, code);
    }
    code.insert(0, op(LOAD, OFFSET_ARCH));
    if code.len() > MAX_INSTRUCTIONS {
        let reason =
            format!("it compiles to {} instructions, the kernel takes {MAX_INSTRUCTIONS}", code.len());
        return Err(SeccompError::Unsupported { field: "linux.seccomp".to_owned(), reason });
    }
    Ok(code)
}

/// In a profile that allows by default, a rule that denies a misspelt call would have no effect, so it is
/// refused. In a profile that denies by default an unknown name is skipped, as in other runtimes.
fn refuse_vain_denials(profile: &LinuxSeccomp, default: u32) -> Result<(), SeccompError> {
    if !permits(default) {
        return Ok(());
    }
    for (index, entry) in profile.syscalls().iter().flatten().enumerate() {
        if matches!(entry.action(), Action::ScmpActAllow | Action::ScmpActLog) {
            continue;
        }
        if let Some(name) = entry.names().iter().find(|name| !table::is_a_call(name)) {
            let shown: String = name.chars().take(64).collect();
            let reason = format!(
                "{shown:?} is not a known system call: the profile allows what it does not name, so the rule would have no effect"
            );
            return Err(SeccompError::Unsupported {
                field: format!("linux.seccomp.syscalls[{index}].names"),
                reason,
            });
        }
    }
    Ok(())
}

fn permits(action: u32) -> bool {
    matches!(action, RET_ALLOW | RET_LOG)
}

/// The action for calls of an architecture for which the profile has no rules. They must not pass only
/// because the profile is a list of forbidden calls.
fn foreign(default: u32) -> u32 {
    if permits(default) { RET_KILL_PROCESS } else { default }
}

fn arch_code(profile: &LinuxSeccomp, arch: Arch, default: u32) -> Result<Vec<Insn>, SeccompError> {
    let verdicts = verdicts(profile, arch, default)?;
    let mut ranges = ranges(verdicts, default, unknown(default));
    if arch == Arch::X86_64 {
        ranges.retain(|(start, _)| *start < X32_BIT);
        ranges.push((X32_BIT, Verdict { rules: Vec::new(), otherwise: foreign(default) }));
    }
    let mut code = vec![op(LOAD, OFFSET_NUMBER)];
    code.extend(tree(&ranges));
    Ok(code)
}

/// The action for calls that are newer than all calls in the profile. Programs use an older call after
/// ENOSYS, but end after EPERM.
fn unknown(default: u32) -> u32 {
    if default == RET_ERRNO | EPERM { RET_ERRNO | ENOSYS } else { default }
}

/// Finds the verdict of each call that the profile names, by number. Names that this architecture (or this
/// version of the table) does not have are skipped: profiles are written for many.
fn verdicts(
    profile: &LinuxSeccomp,
    arch: Arch,
    default: u32,
) -> Result<BTreeMap<u32, Verdict>, SeccompError> {
    let mut verdicts: BTreeMap<u32, Verdict> = BTreeMap::new();
    // Calls with an unconditional rule: later rules for them are never reached.
    let mut closed = std::collections::HashSet::new();
    for (index, entry) in profile.syscalls().iter().flatten().enumerate() {
        let action = action(&format!("syscalls[{index}].action"), entry.action(), entry.errno_ret())?;
        let conditions = conditions(index, entry)?;
        for name in entry.names() {
            let Some(number) = table::number(arch, name) else { continue };
            if closed.contains(&number) {
                continue;
            }
            let verdict =
                verdicts.entry(number).or_insert_with(|| Verdict { rules: Vec::new(), otherwise: default });
            if conditions.is_empty() {
                verdict.otherwise = action;
                closed.insert(number);
            }
            let of_call =
                |all: &Vec<LinuxSeccompArg>| all.iter().map(|arg| Condition::new(name, *arg)).collect();
            verdict.rules.extend(conditions.iter().map(|all| (of_call(all), action)));
        }
    }
    Ok(verdicts)
}

/// Returns alternatives, each a list of conditions that must all hold. Several conditions on one argument are
/// alternatives, because profiles for other runtimes mean that; conditions on different arguments must all
/// hold.
fn conditions(index: usize, entry: &LinuxSyscall) -> Result<Vec<Vec<LinuxSeccompArg>>, SeccompError> {
    let args = entry.args().as_deref().unwrap_or_default();
    if let Some(arg) = args.iter().find(|arg| arg.index() > 5) {
        let field = format!("linux.seccomp.syscalls[{index}].args");
        return Err(SeccompError::Unsupported {
            field,
            reason: format!("there is no argument {}", arg.index()),
        });
    }
    let repeated = args.iter().enumerate().any(|(i, a)| args[..i].iter().any(|b| a.index() == b.index()));
    Ok(if args.is_empty() {
        Vec::new()
    } else if repeated {
        args.iter().map(|arg| vec![*arg]).collect()
    } else {
        vec![args.to_vec()]
    })
}

/// Returns the first number of each range and its verdict; the first range starts at 0.
fn ranges(verdicts: BTreeMap<u32, Verdict>, default: u32, unknown: u32) -> Vec<(u32, Verdict)> {
    let plain = |otherwise| Verdict { rules: Vec::new(), otherwise };
    let mut ranges: Vec<(u32, Verdict)> = Vec::new();
    let mut push = |start: u32, verdict: Verdict| {
        if ranges.last().is_none_or(|(_, last)| *last != verdict) {
            ranges.push((start, verdict));
        }
    };
    let mut next = 0;
    for (number, verdict) in verdicts {
        if number > next {
            push(next, plain(if number >= table::ARM_PRIVATE_BASE { unknown } else { default }));
        }
        push(number, verdict);
        next = number + 1;
    }
    push(next, plain(if next == 0 { default } else { unknown }));
    ranges
}

fn tree(ranges: &[(u32, Verdict)]) -> Vec<Insn> {
    match ranges {
        [] => Vec::new(),
        [(_, verdict)] => verdict.code(),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            branch(JUMP_GE, high[0].0, tree(high), tree(low))
        }
    }
}

fn action(field: &str, action: Action, errno: Option<u32>) -> Result<u32, SeccompError> {
    let field = || format!("linux.seccomp.{field}");
    let refuse = |reason: &str| {
        Err(SeccompError::Unsupported {
            field: field(),
            reason: format!("{action} is not supported: {reason}"),
        })
    };
    Ok(match action {
        Action::ScmpActAllow => RET_ALLOW,
        Action::ScmpActLog => RET_LOG,
        Action::ScmpActKill | Action::ScmpActKillThread => RET_KILL_THREAD,
        Action::ScmpActKillProcess => RET_KILL_PROCESS,
        Action::ScmpActTrap => RET_TRAP,
        Action::ScmpActErrno => match errno.unwrap_or(EPERM) {
            errno if errno <= MAX_ERRNO => RET_ERRNO | errno,
            errno => {
                let reason = format!("errno {errno} is above {MAX_ERRNO}");
                return Err(SeccompError::Unsupported { field: field(), reason });
            }
        },
        Action::ScmpActTrace => return refuse("nothing traces containers"),
        Action::ScmpActNotify => return refuse("there is no listener for notifications"),
    })
}
