//! devices: rules for opening and making device nodes.
//!
//! v1 has two files that take one rule at a time. v2 has a BPF program per cgroup.

use std::fmt::Write;

use rustix::fs::OFlags;

use super::dir::{Dir, write_once};
use super::error::CgroupError;
use super::path::CgroupPath;
use super::resources::{Access, DeviceKind, DeviceRule};
use crate::sys::bpf::{self, Insn};

/// The character devices that every container may use, by major and minor number: those in /dev without hardware.
/// They are null, zero, full, random, urandom, tty, console, ptmx, and the slave ends of pseudo-terminals.
pub const HARMLESS_DEVICES: [(u32, Option<u32>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
];

impl DeviceRule {
    /// The devices that every container may use: [`HARMLESS_DEVICES`]. Nodes of other devices can be made, but not opened.
    #[must_use]
    pub fn harmless() -> Vec<Self> {
        let mknod = Access { read: false, write: false, mknod: true };
        let any = |kind| Self { allow: true, kind, major: None, minor: None, access: mknod };
        let node = |(major, minor)| Self {
            allow: true,
            kind: DeviceKind::Char,
            major: Some(major),
            minor,
            access: Access::ALL,
        };
        [any(DeviceKind::Char), any(DeviceKind::Block)]
            .into_iter()
            .chain(HARMLESS_DEVICES.map(node))
            .collect()
    }

    fn v1(&self, out: &mut String) {
        out.clear();
        let kind = match self.kind {
            DeviceKind::All => 'a',
            DeviceKind::Char => 'c',
            DeviceKind::Block => 'b',
        };
        out.push(kind);
        for (separator, number) in [(' ', self.major), (':', self.minor)] {
            out.push(separator);
            match number {
                // Writing to a String cannot fail.
                Some(n) => drop(write!(out, "{n}")),
                None => out.push('*'),
            }
        }
        out.push(' ');
        for (has, letter) in [(self.access.read, 'r'), (self.access.write, 'w'), (self.access.mknod, 'm')] {
            if has {
                out.push(letter);
            }
        }
    }
}

/// v1: each file is opened once; the order of the rules is kept.
pub(super) fn apply_v1(dir: &Dir, rules: &[DeviceRule]) -> Result<(), CgroupError> {
    let deny = dir.open_file("devices.deny", OFlags::WRONLY)?;
    let allow = dir.open_file("devices.allow", OFlags::WRONLY)?;
    let mut line = String::with_capacity(32);
    for rule in rules {
        rule.v1(&mut line);
        let (fd, file) = if rule.allow { (&allow, "devices.allow") } else { (&deny, "devices.deny") };
        write_once(fd, &line).map_err(|errno| dir.write_error(file, &line, errno))?;
    }
    Ok(())
}

/// v2: attaches the new program before the old ones go, so that there is no moment without one.
pub(super) fn apply_v2(path: &CgroupPath, dir: &Dir, rules: &[DeviceRule]) -> Result<(), CgroupError> {
    let failed = |errno| CgroupError::DeviceFilter {
        path: path.clone(),
        errno,
        hint: match errno {
            rustix::io::Errno::PERM => " (it needs CAP_BPF or CAP_SYS_ADMIN)",
            rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL => {
                " (is the kernel built with CONFIG_CGROUP_BPF?)"
            }
            _ => "",
        },
    };
    // bpf(2) wants a real descriptor of the folder.
    let folder = dir.open_file(".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    let old = bpf::attached_device_programs(&folder).map_err(failed)?;
    let program = bpf::load_device_program(&program(rules)).map_err(failed)?;
    bpf::attach_device_program(&folder, &program).map_err(failed)?;
    for id in old {
        bpf::detach_device_program(&folder, id).map_err(failed)?;
    }
    Ok(())
}

/// Field offsets of `struct bpf_cgroup_dev_ctx`, and its constants (linux/bpf.h).
const CTX_ACCESS_TYPE: i16 = 0;
const CTX_MAJOR: i16 = 4;
const CTX_MINOR: i16 = 8;
const TYPE_BLOCK: i32 = 1;
const TYPE_CHAR: i32 = 2;
const ACCESS_MKNOD: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;

/// R1 = context; R2 = type, R3 = access still to be decided, R4 = major, R5 = minor, R6 = scratch.
///
/// The rules are applied from the last to the first, and each decides the access bits that no later one has:
/// a rule that denies an open bit ends with a denial; without open bits the access is allowed.
fn program(rules: &[DeviceRule]) -> Vec<Insn> {
    let mut code = vec![
        Insn::load32(2, 1, CTX_ACCESS_TYPE),
        Insn::mov(3, 2),
        Insn::and_imm(2, 0xffff),
        Insn::shr_imm(3, 16),
        Insn::load32(4, 1, CTX_MAJOR),
        Insn::load32(5, 1, CTX_MINOR),
    ];
    for rule in rules.iter().rev() {
        add_rule(&mut code, rule);
        if *rule == DeviceRule::DENY_ALL || *rule == DeviceRule::ALLOW_ALL {
            // It decides everything, and the verifier refuses code that cannot be reached.
            break;
        }
    }
    code.extend([Insn::mov_imm(0, 0), Insn::exit()]);
    code
}

fn add_rule(code: &mut Vec<Insn>, rule: &DeviceRule) {
    let mut body = Vec::with_capacity(6);
    let access = access_bits(rule.access);
    if rule.allow {
        body.extend([
            Insn::and_imm(3, !access),
            Insn::jump_not_equal(3, 0, 2),
            Insn::mov_imm(0, 1),
            Insn::exit(),
        ]);
    } else {
        body.extend([
            Insn::mov(6, 3),
            Insn::and_imm(6, access),
            Insn::jump_equal(6, 0, 2),
            Insn::mov_imm(0, 0),
            Insn::exit(),
        ]);
    }
    let mut tests = Vec::with_capacity(3);
    match rule.kind {
        DeviceKind::All => {}
        DeviceKind::Char => tests.push((2, TYPE_CHAR)),
        DeviceKind::Block => tests.push((2, TYPE_BLOCK)),
    }
    if rule.kind != DeviceKind::All {
        // Device numbers have at most 20 bits, so the bits of a larger one never compare equal.
        tests.extend(rule.major.map(|n| (4, n.cast_signed())));
        tests.extend(rule.minor.map(|n| (5, n.cast_signed())));
    }
    for (i, (register, value)) in tests.iter().enumerate() {
        let skip = tests.len() - i - 1 + body.len();
        code.push(Insn::jump_not_equal(*register, *value, i16::try_from(skip).unwrap_or(i16::MAX)));
    }
    code.append(&mut body);
}

fn access_bits(access: Access) -> i32 {
    let bit = |has: bool, bit: i32| if has { bit } else { 0 };
    bit(access.read, ACCESS_READ) | bit(access.write, ACCESS_WRITE) | bit(access.mknod, ACCESS_MKNOD)
}
