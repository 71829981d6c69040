//! An interpreter for programs, and profiles for the tests.

mod decisions;
mod default_profile;
mod profiles;

use serde_json::{Value, json};

use super::arch::Arch;
use super::bpf::{AND, Insn, JUMP, JUMP_EQ, JUMP_GE, JUMP_GT, LOAD, RETURN};
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
