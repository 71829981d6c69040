//! A file system only for the runtime's folders, so that results do not depend on that of the machine: ext4
//! with a journal, in a file. Without a journal, ext4's inode allocator walks all inodes that were deleted in
//! the last minutes, which is a cost of the machine and not of the runtime.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::Result;

const SIZE: u64 = 6 << 30;

/// The file system and, as on every node, a tmpfs in the place of /run. Dropping it unmounts both.
pub struct Disk {
    folder: TempDir,
}

impl Disk {
    /// Makes and mounts both.
    ///
    /// When mkfs.ext4 or mount is missing or fails.
    /// mkfs.ext4 or mount is missing or fails.
    pub fn make() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("crisp-bench-disk-").tempdir()?;
        let disk = Self { folder };
        let image = disk.folder.path().join("image");
        std::fs::File::create(&image)?.set_len(SIZE)?;
        for place in [disk.disk(), disk.run()] {
            std::fs::create_dir(place)?;
        }
        // Writes all tables now: otherwise the kernel would write them during the benchmark.
        let lazy = "lazy_itable_init=0,lazy_journal_init=0";
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-E", lazy]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(disk.disk()))?;
        run(Command::new("mount").args(["-t", "tmpfs", "crisp-bench"]).arg(disk.run()))?;
        Ok(disk)
    }

    /// The folder of the ext4.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// The folder of the tmpfs.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.folder.path().join("run")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for place in [self.run(), self.disk()] {
            // A server that was just stopped may still use it for a moment.
            for _ in 0..50 {
                let unmounted = rustix::mount::unmount(&place, rustix::mount::UnmountFlags::empty());
                if unmounted != Err(rustix::io::Errno::BUSY) {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// Describes the file system that a folder is on.
///
/// # Errors
/// When the folder does not exist.
pub fn describe(folder: &Path) -> Result<String> {
    let folder = folder.canonicalize()?;
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mounts = table.lines().filter_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let mut back = back.split(' ');
        Some((front.split(' ').nth(4)?, back.next()?, back.next()?))
    });
    let (_, kind, device) = mounts
        .filter(|(at, ..)| folder.starts_with(at))
        .max_by_key(|(at, ..)| at.len())
        .ok_or("the folder is on no mount")?;
    let name = device.rsplit('/').next().unwrap_or_default();
    let journals = std::fs::read_dir("/proc/fs/jbd2").into_iter().flatten().flatten();
    let journal = journals.flat_map(|entry| entry.file_name().into_string()).any(|journal| {
        // The name is DEVICE-INODE; 8 is the inode of an internal journal.
        journal.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'))
    });
    let journal = match (kind, journal) {
        ("ext4", true) => ", with a journal",
        ("ext4", false) => ", WITHOUT a journal",
        _ => "",
    };
    Ok(format!("{kind} on {device}{journal}"))
}

/// The number of inodes in use on the file systems of these folders.
///
/// # Errors
/// When one of them does not exist.
pub fn inodes(folders: &[&Path]) -> Result<f64> {
    let mut sum = 0;
    for folder in folders {
        let counts = rustix::fs::statvfs(*folder)?;
        sum += counts.f_files - counts.f_ffree;
    }
    Ok(sum as f64)
}
