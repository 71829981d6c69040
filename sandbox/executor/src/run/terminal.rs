//! A container's terminal, from the container's own /dev/pts.
//!
//! Both ends are had by descriptor: the slave from the master (`TIOCGPTPEER`), so no name in a /dev
//! that others can write to decides what becomes the controlling terminal or /dev/console.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags, Uid, fchown, fstat, fstatfs, makedev};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::error::{At, Stage, StageError};
use super::filesystem;
use super::report::Reporter;
use crate::in_root::{self, Kind};

/// f_type of devpts.
const DEVPTS_MAGIC: u64 = 0x1cd1;
/// Major and minor number of every ptmx.
const PTMX_DEVICE: (u32, u32) = (5, 2);

/// Opens a pair in the container at `root`, sends the master to the monitor, returns the slave.
///
/// `size`: columns and rows. It is set here, for a program looks for it when it begins.
pub(crate) fn open(
    root: BorrowedFd<'_>,
    uid: u32,
    size: Option<(u16, u16)>,
    reporter: &Reporter,
) -> Result<OwnedFd, StageError> {
    let at = Stage::Terminal;
    let how = OFlags::RDWR | OFlags::NOCTTY;
    let master = in_root::resolve(root, c"/dev/pts/ptmx", how).at(at, "\"/dev/pts/ptmx\"")?;
    check(&master)?;
    unlockpt(&master).at(at, "unlock")?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags).at(at, "other end")?;
    fchown(&slave, Some(Uid::from_raw(uid)), None).at(at, "give it to the user")?;
    if let Some((ws_col, ws_row)) = size {
        let size = Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).at(at, "set its size")?;
    }
    reporter.terminal(master.as_fd());
    Ok(slave)
}

/// Attaches the slave as the container's /dev/console.
pub(crate) fn attach_console(root: BorrowedFd<'_>, slave: BorrowedFd<'_>) -> Result<(), StageError> {
    let attach = || {
        let target = in_root::find_or_make(root, c"/dev/console", Kind::File)?;
        filesystem::attach(filesystem::copy(slave, false)?.as_fd(), target.as_fd())
    };
    attach().at(Stage::Terminal, "\"/dev/console\"")
}

fn check(master: &OwnedFd) -> Result<(), StageError> {
    let stat = fstat(master).at(Stage::Terminal, "\"/dev/pts/ptmx\"")?;
    let statfs = fstatfs(master).at(Stage::Terminal, "\"/dev/pts/ptmx\"")?;
    let real = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == makedev(PTMX_DEVICE.0, PTMX_DEVICE.1)
        && statfs.f_type as u64 == DEVPTS_MAGIC;
    if real {
        return Ok(());
    }
    let why = "\"/dev/pts/ptmx\": is not the terminal multiplexer of a devpts".to_owned();
    Err(StageError::explained(Stage::Terminal, Errno::NODEV, why))
}
