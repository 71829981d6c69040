//! The end of an exec cgroup: its processes are killed at once, and then it is removed, which may take a while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::dir::Dir;
use super::error::CgroupError;
use super::hierarchy::Host;
use super::kill;
use super::path::CgroupPath;
use super::remove;

/// Time limit for killed processes to end.
const WAIT: Duration = Duration::from_secs(3);

/// An exec cgroup whose processes have been killed and end now.
#[derive(Debug)]
#[must_use = "it must be removed"]
pub struct KilledExecCgroup {
    host: Arc<Host>,
    path: CgroupPath,
    /// Nothing is killed by path: a newer cgroup may have it.
    dir: Dir,
}

impl KilledExecCgroup {
    pub(super) fn new(host: Arc<Host>, path: CgroupPath, dir: Dir) -> Self {
        // Tried again, and reported, by the removal.
        let _ = send_kill(&dir);
        Self { host, path, dir }
    }

    /// Waits until its processes are gone, and removes it. It leaves a newer cgroup of the same name as it is.
    ///
    /// # Errors
    /// [`CgroupError::StillPopulated`] when some survive, [`CgroupError::Remove`].
    pub fn remove(self) -> Result<(), CgroupError> {
        self.wait()?;
        let (hierarchy, path) = (self.host.exec_hierarchy()?, &self.path);
        let failed = |errno| CgroupError::Remove { dir: hierarchy.dir_path(path), errno };
        let Some(named) = hierarchy.dir(path)? else { return Ok(()) };
        if !is_same(&named, &self.dir).map_err(failed)? {
            return Ok(());
        }
        remove::remove_in(hierarchy, path).map_err(failed)
    }

    #[expect(clippy::disallowed_methods, reason = "this runs on a thread of blocking work")]
    fn wait(&self) -> Result<(), CgroupError> {
        let started = Instant::now();
        let mut pause = Duration::from_micros(200);
        loop {
            let mut pids = Vec::new();
            kill::collect_below(&self.dir, &mut pids)?;
            if pids.is_empty() {
                return Ok(());
            }
            if started.elapsed() > WAIT {
                let waited_ms = u64::try_from(WAIT.as_millis()).unwrap_or(u64::MAX);
                let (path, count) = (self.path.clone(), pids.len());
                return Err(CgroupError::StillPopulated { path, count, waited_ms });
            }
            send_kill(&self.dir)?;
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

/// One round of SIGKILL to everything in `dir` and below.
fn send_kill(dir: &Dir) -> Result<(), CgroupError> {
    // Since Linux 5.14, v2: atomic, also against a process that forks faster than one can list.
    if dir.try_write("cgroup.kill", "1").is_ok() {
        return Ok(());
    }
    let mut pids = Vec::new();
    kill::collect_below(dir, &mut pids)?;
    for pid in pids.into_iter().filter_map(Pid::from_raw) {
        // Processes that have ended meanwhile are ignored; others are tried again.
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
    Ok(())
}

fn is_same(one: &Dir, other: &Dir) -> Result<bool, Errno> {
    let (one, other) = (rustix::fs::fstat(one.fd())?, rustix::fs::fstat(other.fd())?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}
