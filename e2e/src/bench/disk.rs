//! A file system for the runtime's folders alone, so that figures do not depend on the machine's own:
//! ext4 with a journal, in a file. Without a journal, ext4's inode allocator walks all inodes that were
//! deleted in the last minutes, which is the machine's cost and not the runtime's.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::Result;

const SIZE: u64 = 6 << 30;

/// The file system and, as on every node, a tmpfs in the place of /run. Both are gone when dropped.
pub struct Disk {
    folder: TempDir,
}

impl Disk {
    /// Makes and mounts both.
    ///
    /// # Errors
    /// mkfs.ext4 or mount is missing or fails.
    pub fn make() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("crisp-bench-disk-").tempdir()?;
        let disk = Self { folder };
        let image = disk.folder.path().join("image");
        std::fs::File::create(&image)?.set_len(SIZE)?;
        for place in [disk.disk(), disk.run()] {
            std::fs::create_dir(place)?;
        }
        // All tables at once: the kernel would go on to write them behind the benchmark.
        let lazy = "lazy_itable_init=0,lazy_journal_init=0";
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-E", lazy]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(disk.disk()))?;
        run(Command::new("mount").args(["-t", "tmpfs", "crisp-bench"]).arg(disk.run()))?;
        Ok(disk)
    }

    /// The ext4.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// The tmpfs.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.folder.path().join("run")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for place in [self.run(), self.disk()] {
            // A server that was just stopped may hold it for a moment.
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

/// The file system that a folder is on, in words.
///
/// # Errors
/// There is no such folder.
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
        // DEVICE-INODE, 8 being the inode of a journal inside.
        journal.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'))
    });
    let journal = match (kind, journal) {
        ("ext4", true) => ", with a journal",
        ("ext4", false) => ", WITHOUT a journal",
        _ => "",
    };
    Ok(format!("{kind} on {device}{journal}"))
}

/// Inodes in use on the file systems of these folders.
///
/// # Errors
/// One is not there.
pub fn inodes(folders: &[&Path]) -> Result<f64> {
    let mut sum = 0;
    for folder in folders {
        let counts = rustix::fs::statvfs(*folder)?;
        sum += counts.f_files - counts.f_ffree;
    }
    Ok(sum as f64)
}
