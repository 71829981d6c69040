//! Pauses and resumes all processes of a cgroup and those below it. See the kernel's cgroup-v2.rst,
//! "cgroup.freeze", and for v1 freezer-subsystem.rst.

use std::time::{Duration, Instant};

use super::dir::{Dir, keyed};
use super::error::CgroupError;
use super::hierarchy::{Controller, Host};
use super::path::CgroupPath;
use super::tree;

/// Time limit for all processes to be paused. A process that waits for a device or a dead file system is not
/// paused.
const WAIT: Duration = Duration::from_secs(2);

/// The cgroup's own freezer. That of the v2 tree is used if there is one, even beside v1 controllers: a
/// process that it has paused can be killed.
enum Freezer {
    V1(Dir),
    V2(Dir),
}

impl Freezer {
    fn of(host: &Host, path: &CgroupPath) -> Result<Self, CgroupError> {
        let missing = || CgroupError::NotFound { path: path.clone() };
        if let Some(v2) = &host.v2 {
            let dir = v2.dir(path)?.ok_or_else(missing)?;
            // Since Linux 5.2.
            if dir.read_number("cgroup.freeze")?.is_some() {
                return Ok(Self::V2(dir));
            }
        }
        let v1 = host.v1.iter().find(|hierarchy| hierarchy.has(Controller::Freezer.v1_name()));
        let v1 = v1.ok_or_else(|| CgroupError::NoController {
            path: path.clone(),
            controller: "freezer",
            hint: " (cgroup v2 has it since Linux 5.2)",
        })?;
        Ok(Self::V1(v1.dir(path)?.ok_or_else(missing)?))
    }

    fn request(&self, frozen: bool) -> Result<(), CgroupError> {
        match self {
            Self::V1(dir) => dir.write("freezer.state", if frozen { "FROZEN" } else { "THAWED" }),
            Self::V2(dir) => dir.write("cgroup.freeze", if frozen { "1" } else { "0" }),
        }
    }

    fn is_frozen(&self) -> Result<bool, CgroupError> {
        let mut buffer = [0u8; 256];
        Ok(match self {
            // FREEZING: not all are.
            Self::V1(dir) => dir.read("freezer.state", &mut buffer)?.trim() == "FROZEN",
            Self::V2(dir) => keyed(dir.read("cgroup.events", &mut buffer)?).any(|line| line == ("frozen", 1)),
        })
    }
}

/// Returns when all are paused; after the time limit all are resumed.
#[expect(clippy::disallowed_methods, reason = "this runs on a thread of blocking work")]
pub(super) fn freeze(host: &Host, path: &CgroupPath) -> Result<(), CgroupError> {
    let freezer = Freezer::of(host, path)?;
    let (begun, mut pause) = (Instant::now(), Duration::from_micros(100));
    loop {
        // On v1 the write is repeated for processes that were started since.
        freezer.request(true)?;
        if freezer.is_frozen()? {
            return Ok(());
        }
        if begun.elapsed() > WAIT {
            freezer.request(false)?;
            return Err(CgroupError::NotFrozen { path: path.clone(), waited: WAIT });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

pub(super) fn thaw(host: &Host, path: &CgroupPath) -> Result<(), CgroupError> {
    Freezer::of(host, path)?.request(false)
}

pub(super) fn is_frozen(host: &Host, path: &CgroupPath) -> Result<bool, CgroupError> {
    Freezer::of(host, path)?.is_frozen()
}

/// Resumes processes that other programs have paused with v1 in `path` and below, because SIGKILL has no
/// effect on them. Best effort: the wait for the processes reports those that stay.
pub(super) fn thaw_v1(host: &Host, path: &CgroupPath) {
    let v1 = host.v1.iter().find(|hierarchy| hierarchy.has(Controller::Freezer.v1_name()));
    let Some(dir) = v1.and_then(|hierarchy| hierarchy.open(path).ok().flatten()) else { return };
    let _ = tree::walk::<rustix::io::Errno>(dir, |dir| {
        let _ = dir.try_write("freezer.state", "THAWED");
        Ok(())
    });
}
