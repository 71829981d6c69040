//! Architectures of system calls.

use oci_spec::runtime::Arch as SpecArch;

/// An architecture whose call numbers are in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arch {
    X86_64,
    X86,
    Aarch64,
    /// 32-bit, EABI.
    Arm,
}

/// The bit that is set in the numbers of x32 calls, which have the architecture x86_64.
pub(super) const X32_BIT: u32 = 0x4000_0000;

impl Arch {
    pub(super) const fn native() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 }
    }

    /// The AUDIT_ARCH_ value of linux/audit.h, which is in `seccomp_data.arch`.
    pub(super) const fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// The architectures that a profile is compiled for: the native one, and its 32-bit variant when the
    /// profile lists that. Other listed architectures cannot run on this machine, or (x32) are treated like
    /// those that are not listed.
    pub(super) fn of_profile(self, listed: &[SpecArch]) -> Vec<Self> {
        let sister = match self {
            Self::X86_64 => (SpecArch::ScmpArchX86, Self::X86),
            Self::Aarch64 => (SpecArch::ScmpArchArm, Self::Arm),
            Self::X86 | Self::Arm => return vec![self],
        };
        let mut archs = vec![self];
        archs.extend(listed.contains(&sister.0).then_some(sister.1));
        archs
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("seccomp profiles need a table of system calls for this architecture: add it to table.rs");
