//! bpf(2): the device programs of cgroup v2.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::checked;

const PROG_LOAD: u32 = 5;
const PROG_ATTACH: u32 = 8;
const PROG_DETACH: u32 = 9;
const PROG_GET_FD_BY_ID: u32 = 13;
const PROG_QUERY: u32 = 16;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

/// One eBPF instruction, `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Insn {
    pub code: u8,
    /// Destination in the low four bits, source in the high ones.
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

impl Insn {
    const fn new(code: u8, target: u8, source: u8, offset: i16, immediate: i32) -> Self {
        Self { code, registers: target | source << 4, offset, immediate }
    }

    /// `target = *(u32 *)(source + offset)`
    pub(crate) const fn load32(target: u8, source: u8, offset: i16) -> Self {
        Self::new(0x61, target, source, offset, 0)
    }

    pub(crate) const fn mov(target: u8, source: u8) -> Self {
        Self::new(0xbf, target, source, 0, 0)
    }

    pub(crate) const fn mov_imm(target: u8, value: i32) -> Self {
        Self::new(0xb7, target, 0, 0, value)
    }

    pub(crate) const fn and_imm(target: u8, value: i32) -> Self {
        Self::new(0x54, target, 0, 0, value)
    }

    pub(crate) const fn shr_imm(target: u8, bits: i32) -> Self {
        Self::new(0x74, target, 0, 0, bits)
    }

    /// Skips `offset` instructions when the low 32 bits are not `value`.
    pub(crate) const fn jump_not_equal(target: u8, value: i32, offset: i16) -> Self {
        Self::new(0x56, target, 0, offset, value)
    }

    pub(crate) const fn jump_equal(target: u8, value: i32, offset: i16) -> Self {
        Self::new(0x16, target, 0, offset, value)
    }

    pub(crate) const fn exit() -> Self {
        Self::new(0x95, 0, 0, 0, 0)
    }
}

/// The first part of `union bpf_attr` for BPF_PROG_LOAD; the kernel assumes zero for the rest.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    program_type: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
}

/// For BPF_PROG_ATTACH and BPF_PROG_DETACH.
#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// For BPF_PROG_QUERY.
#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

/// For BPF_PROG_GET_FD_BY_ID.
#[repr(C)]
#[derive(Default)]
struct IdAttr {
    id: u32,
    next: u32,
    flags: u32,
}

fn bpf<T>(command: u32, attr: &mut T) -> Result<libc::c_long, Errno> {
    // SAFETY: `attr` is one of the structs above, each a prefix of bpf_attr for its command, and its
    // pointers lead to buffers that the caller holds and whose lengths it gives.
    checked(unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) })
}

fn descriptor(result: libc::c_long) -> Result<OwnedFd, Errno> {
    let number = i32::try_from(result).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn raw(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// Loads a program of type BPF_PROG_TYPE_CGROUP_DEVICE; the descriptor is close-on-exec.
pub(crate) fn load_device_program(code: &[Insn]) -> Result<OwnedFd, Errno> {
    let license = c"Apache-2.0";
    let mut attr = LoadAttr {
        program_type: PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(code.len()).map_err(|_| Errno::TOOBIG)?,
        instructions: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..LoadAttr::default()
    };
    descriptor(bpf(PROG_LOAD, &mut attr)?)
}

/// Attaches a program to a cgroup, in addition to the attached ones.
pub(crate) fn attach_device_program(cgroup: &OwnedFd, program: &OwnedFd) -> Result<(), Errno> {
    let mut attr = AttachAttr {
        target: raw(cgroup),
        program: raw(program),
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    bpf(PROG_ATTACH, &mut attr).map(drop)
}

/// Returns the ids of the programs that are attached to this cgroup itself (not to its parents).
pub(crate) fn attached_device_programs(cgroup: &OwnedFd) -> Result<Vec<u32>, Errno> {
    let mut ids = [0u32; 64];
    let mut attr = QueryAttr {
        target: raw(cgroup),
        kind: ATTACH_CGROUP_DEVICE,
        ids: ids.as_mut_ptr() as u64,
        count: 64,
        ..QueryAttr::default()
    };
    bpf(PROG_QUERY, &mut attr)?;
    Ok(ids.into_iter().take(attr.count as usize).collect())
}

/// Detaches a program from a cgroup. A program that is not attached is not an error.
pub(crate) fn detach_device_program(cgroup: &OwnedFd, id: u32) -> Result<(), Errno> {
    let program = match bpf(PROG_GET_FD_BY_ID, &mut IdAttr { id, ..IdAttr::default() }) {
        Ok(number) => descriptor(number)?,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    let mut attr =
        AttachAttr { target: raw(cgroup), program: raw(&program), kind: ATTACH_CGROUP_DEVICE, flags: 0 };
    match bpf(PROG_DETACH, &mut attr) {
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}
