//! A cgroup's folder in one hierarchy: short reads and single writes, with errors that name the file.

use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Dir as Listing, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::error::CgroupError;

/// The folder, by descriptor: it stays the same cgroup when another one gets its name.
#[derive(Debug)]
pub(super) struct Dir {
    fd: OwnedFd,
    /// For a folder that is read repeatedly: its files stay open. Reading a file again costs a sixth of opening
    /// it.
    kept: Option<RefCell<CachedFiles>>,
}

#[derive(Debug, Default)]
struct CachedFiles {
    /// In the order of the first reading; None for missing ones.
    files: Vec<(&'static str, Option<OwnedFd>)>,
    /// The index behind the file that was read last: files are read in the same order each time.
    next: usize,
}

/// Enough for the longest file read here (memory.stat, about 2 kB; io.stat 100 bytes per device).
pub(super) const BUFFER: usize = 16 * 1024;

/// A first read of less than this (the kernel's own buffer is a page) was all of the file.
const SHORT: usize = 3000;

impl Dir {
    pub(super) fn open(root: BorrowedFd<'_>, relative: &str) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(root, relative, flags, Mode::empty())?;
        Ok(Self { fd, kept: None })
    }

    /// The cgroup `name` directly below it, or with `..` its parent.
    pub(super) fn child(&self, name: &CStr) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self { fd: rustix::fs::openat(&self.fd, name, flags, Mode::empty())?, kept: None })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Names of the cgroups right below it.
    pub(super) fn children(&self) -> Result<Vec<CString>, Errno> {
        let mut names = Vec::new();
        // A folder has two links of its own, and one from each folder in it. File systems that do not count
        // so say 1.
        if rustix::fs::fstat(&self.fd)?.st_nlink == 2 {
            return Ok(names);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for entry in Listing::new(rustix::fs::openat(&self.fd, c".", flags, Mode::empty())?)? {
            let entry = entry?;
            let name = entry.file_name();
            if entry.file_type() == FileType::Directory && name != c"." && name != c".." {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// From now on files stay open once they have been read.
    pub(super) fn keep_files(self) -> Self {
        Self { kept: Some(RefCell::default()), ..self }
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// For messages, which are rare: looked up when one is made.
    fn name(&self, file: &str) -> String {
        let link = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let folder = std::fs::read_link(link).unwrap_or_default();
        folder.join(file).display().to_string()
    }

    pub(super) fn open_file(&self, file: &str, flags: OFlags) -> Result<OwnedFd, CgroupError> {
        rustix::fs::openat(&self.fd, file, flags | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| CgroupError::Read { file: self.name(file), errno })
    }

    /// Reads an optional file: None when it does not exist, or its subsystem has nothing to report
    /// (EOPNOTSUPP, as for disabled PSI).
    pub(super) fn read_opt<'b>(
        &self,
        file: &'static str,
        buffer: &'b mut [u8],
    ) -> Result<Option<&'b str>, CgroupError> {
        let length = buffer.len();
        let result = match &self.kept {
            None => self.open_to_read(file).and_then(|fd| read_to_end(&fd, buffer)),
            Some(kept) => self.read_kept(&mut kept.borrow_mut(), file, buffer),
        };
        match result {
            Ok(n) => Ok(Some(whole_lines(&buffer[..n], n == length))),
            Err(Errno::NOENT | Errno::OPNOTSUPP) => Ok(None),
            Err(errno) => Err(CgroupError::Read { file: self.name(file), errno }),
        }
    }

    fn open_to_read(&self, file: &str) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.fd, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    }

    fn read_kept(
        &self,
        CachedFiles { files, next }: &mut CachedFiles,
        file: &'static str,
        buffer: &mut [u8],
    ) -> Result<usize, Errno> {
        let is_it = |(name, _): &(&str, _)| *name == file;
        let known = Some(*next).filter(|next| files.get(*next).is_some_and(is_it));
        let index = match known.or_else(|| files.iter().position(is_it)) {
            Some(index) => index,
            None => {
                let fd = match self.open_to_read(file) {
                    Ok(fd) => Some(fd),
                    Err(Errno::NOENT) => None,
                    Err(errno) => return Err(errno),
                };
                files.push((file, fd));
                files.len() - 1
            }
        };
        *next = index + 1;
        let fd = files[index].1.as_ref().ok_or(Errno::NOENT)?;
        let mut filled = 0;
        while filled < buffer.len() {
            match rustix::io::pread(fd, &mut buffer[filled..], filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
            // The kernel gives all of a file that fits; only a full buffer or a long file goes on.
            if filled < SHORT {
                break;
            }
        }
        Ok(filled)
    }

    /// A file of any length; None when the cgroup is gone.
    pub(super) fn read_all(&self, file: &str) -> Result<Option<String>, CgroupError> {
        let failed = |errno| CgroupError::Read { file: self.name(file), errno };
        let fd = match rustix::fs::openat(&self.fd, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NODEV) => return Ok(None),
            Err(errno) => return Err(failed(errno)),
        };
        let (mut content, mut chunk) = (Vec::new(), [0u8; 4096]);
        loop {
            match rustix::io::read(&fd, &mut chunk) {
                Ok(0) => return Ok(Some(String::from_utf8_lossy(&content).into_owned())),
                Ok(n) => content.extend_from_slice(&chunk[..n]),
                Err(Errno::INTR) => {}
                // A threaded cgroup has no process list of its own.
                Err(Errno::NODEV | Errno::OPNOTSUPP) => return Ok(None),
                Err(errno) => return Err(failed(errno)),
            }
        }
    }

    pub(super) fn read_error(&self, file: &str, errno: Errno) -> CgroupError {
        CgroupError::Read { file: self.name(file), errno }
    }

    pub(super) fn read<'b>(&self, file: &'static str, buffer: &'b mut [u8]) -> Result<&'b str, CgroupError> {
        self.read_opt(file, buffer)?
            .ok_or_else(|| CgroupError::Read { file: self.name(file), errno: Errno::NOENT })
    }

    /// A file with one number; `max` (v2), and v1's number for it, are None.
    pub(super) fn read_limit(&self, file: &'static str) -> Result<Option<Option<u64>>, CgroupError> {
        let mut buffer = [0u8; 64];
        Ok(self.read_opt(file, &mut buffer)?.map(|text| text.trim().parse().ok().and_then(limited)))
    }

    pub(super) fn read_number(&self, file: &'static str) -> Result<Option<u64>, CgroupError> {
        let mut buffer = [0u8; 64];
        Ok(self.read_opt(file, &mut buffer)?.and_then(|text| text.trim().parse().ok()))
    }

    /// One write(2), as the kernel requires.
    pub(super) fn write(&self, file: &str, value: &str) -> Result<(), CgroupError> {
        self.try_write(file, value).map_err(|errno| self.write_error(file, value, errno))
    }

    /// As [`Self::write`]; false when the cgroup has no such file.
    pub(super) fn write_opt(&self, file: &str, value: &str) -> Result<bool, CgroupError> {
        match self.try_write(file, value) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.write_error(file, value, errno)),
        }
    }

    pub(super) fn try_write(&self, file: &str, value: &str) -> Result<(), Errno> {
        let fd = rustix::fs::openat(&self.fd, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        write_once(&fd, value)
    }

    pub(super) fn write_error(&self, file: &str, value: &str, errno: Errno) -> CgroupError {
        let value = value.trim_end();
        let shown = if value.is_empty() { "an empty value".to_owned() } else { value.to_owned() };
        CgroupError::Write { file: self.name(file), value: shown, errno, hint: hint(file, errno) }
    }
}

pub(super) fn write_once(fd: &OwnedFd, value: &str) -> Result<(), Errno> {
    loop {
        match rustix::io::write(fd, value.as_bytes()) {
            Ok(n) if n == value.len() => return Ok(()),
            Ok(_) => return Err(Errno::IO),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// None for v1's number for "no limit", which is LONG_MAX rounded down to pages.
pub(super) fn limited(number: u64) -> Option<u64> {
    Some(number).filter(|number| *number < 0x7fff_ffff_ffff_0000)
}

/// The text without a last line that may be incomplete: a part of a number is another number.
fn whole_lines(bytes: &[u8], is_full: bool) -> &str {
    let end = if is_full {
        bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
    } else {
        bytes.len()
    };
    std::str::from_utf8(&bytes[..end]).unwrap_or_default()
}

/// Reads to the end or until `buffer` is full.
fn read_to_end(fd: &OwnedFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::read(fd, &mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(filled)
}

fn hint(file: &str, errno: Errno) -> &'static str {
    match (file, errno) {
        ("memory.limit_in_bytes" | "memory.max", Errno::BUSY) => {
            " (more is in use and cannot be reclaimed; ask for a higher limit)"
        }
        ("memory.memsw.limit_in_bytes", Errno::INVAL) => " (memory plus swap cannot be below memory)",
        ("memory.limit_in_bytes", Errno::INVAL) => " (memory cannot be above memory plus swap)",
        ("cpuset.cpus" | "cpuset.mems", Errno::INVAL | Errno::ACCESS | Errno::NOSPC | Errno::RANGE) => {
            " (the cgroup above does not have these, or the host does not)"
        }
        ("cpu.cfs_quota_us" | "cpu.cfs_period_us" | "cpu.max", Errno::INVAL) => {
            " (periods go from 1000 to 1000000 us, quotas from 1000 us, and neither beyond the cgroup above)"
        }
        ("io.weight" | "blkio.bfq.weight" | "blkio.bfq.weight_device", Errno::NOENT) => {
            " (weights need the I/O scheduler BFQ, or on cgroup v2 a kernel with io.cost)"
        }
        ("io.max", Errno::NODEV) => {
            " (the device is not there, or is a partition: limits are for whole disks)"
        }
        ("cgroup.subtree_control", Errno::BUSY) => {
            " (a cgroup with processes cannot have children with controllers)"
        }
        (_, Errno::NOENT) => " (this kernel, or this cgroup, has no such setting)",
        (_, Errno::PERM | Errno::ACCESS) => " (not permitted; is the cgroup delegated to this user?)",
        _ => "",
    }
}

/// The kernel's `key number` lines. Lines that are not of this form are skipped.
pub(super) fn keyed(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, value.trim().parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake() -> (tempfile::TempDir, Dir) {
        let folder = tempfile::tempdir().unwrap();
        let root = std::fs::File::open(folder.path()).unwrap();
        let dir = Dir::open(root.as_fd(), ".").unwrap();
        (folder, dir)
    }

    #[test]
    fn errors_name_file_and_value() {
        let (folder, dir) = fake();
        let text = dir.write("memory.max", "1").unwrap_err().to_string();
        let file = folder.path().join("memory.max");
        assert!(text.starts_with(&format!("cgroup file {}: cannot write 1: ", file.display())), "{text}");
        assert!(!dir.write_opt("memory.max", "1").unwrap());
    }

    #[test]
    fn limits_know_max_in_both_dialects() {
        let (folder, dir) = fake();
        for (text, expected) in [("max\n", None), ("9223372036854771712\n", None), ("4096\n", Some(4096))] {
            std::fs::write(folder.path().join("limit"), text).unwrap();
            assert_eq!(dir.read_limit("limit").unwrap(), Some(expected), "{text}");
        }
        assert_eq!(dir.read_limit("nothing").unwrap(), None);
    }
}
