//! Files whose content the kernel makes when they are read: /proc, /sys and similar file systems.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;

/// Maximum number of bytes to read: some of these files have no end.
const MAX: u64 = 4 << 20;

/// Magic numbers of statfs(2), and of the kernel's `linux/magic.h`.
const KINDS: [u64; 15] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x1cd1,      // devpts
    0x1980_0202, // mqueue
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0x6165_676c, // pstore
    0x6265_6570, // configfs
    0x6573_5543, // fusectl
    0x4249_4e4d, // binfmt_misc
    0xde5e_81e4, // efivarfs
];

/// Whether a file is in a file system of the kernel.
pub(crate) fn are_in(file: &OwnedFd) -> bool {
    // The field is a signed number on some architectures; only 32 bits of it count.
    rustix::fs::fstatfs(file).is_ok_and(|found| KINDS.contains(&(found.f_type as u64 & 0xffff_ffff)))
}

/// Reads the whole content. Such a file does not report its size.
pub(crate) fn read(file: OwnedFd) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::from(file).take(MAX + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(content) }
}
