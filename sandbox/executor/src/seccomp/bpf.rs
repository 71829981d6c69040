//! Classic BPF: instructions, and blocks of them that can be joined.
//!
//! All jumps go forward and are relative, so a block means the same at every position.

/// `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Insn {
    pub code: u16,
    pub jump_true: u8,
    pub jump_false: u8,
    pub k: u32,
}

/// BPF_LD | BPF_W | BPF_ABS and so on, linux/bpf_common.h.
pub(super) const LOAD: u16 = 0x20;
pub(super) const AND: u16 = 0x54;
pub(super) const JUMP: u16 = 0x05;
pub(super) const JUMP_EQ: u16 = 0x15;
pub(super) const JUMP_GT: u16 = 0x25;
pub(super) const JUMP_GE: u16 = 0x35;
pub(super) const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
pub(super) const OFFSET_NUMBER: u32 = 0;
pub(super) const OFFSET_ARCH: u32 = 4;

/// The kernel's limit, BPF_MAXINSNS.
pub(super) const MAX_INSTRUCTIONS: usize = 4096;

/// The offsets of the two halves of argument `index`: low, high. (Little-endian machines.)
pub(super) fn argument_offsets(index: u32) -> (u32, u32) {
    let low = 16 + 8 * index;
    (low, low + 4)
}

pub(super) fn op(code: u16, k: u32) -> Insn {
    Insn { code, jump_true: 0, jump_false: 0, k }
}

pub(super) fn jump(code: u16, k: u32, jump_true: u8, jump_false: u8) -> Insn {
    Insn { code, jump_true, jump_false, k }
}

/// `if (A <code> k) yes else no`, where both blocks end in returns.
pub(super) fn branch(code: u16, k: u32, yes: Vec<Insn>, no: Vec<Insn>) -> Vec<Insn> {
    let mut block = Vec::with_capacity(yes.len() + no.len() + 2);
    // `no` comes first. A conditional jump reaches 255 instructions, an unconditional one reaches all.
    match u8::try_from(no.len()) {
        Ok(over) => block.push(jump(code, k, over, 0)),
        Err(_) => {
            block.push(jump(code, k, 0, 1));
            // A program has at most 4096 instructions; a longer one is refused at the end.
            block.push(op(JUMP, u32::try_from(no.len()).unwrap_or(u32::MAX)));
        }
    }
    block.extend(no);
    block.extend(yes);
    block
}

/// Encodes the program as the kernel expects it: 8 bytes per instruction, host byte order.
pub(super) fn to_bytes(program: &[Insn]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for insn in program {
        bytes.extend(insn.code.to_ne_bytes());
        bytes.extend([insn.jump_true, insn.jump_false]);
        bytes.extend(insn.k.to_ne_bytes());
    }
    bytes
}
