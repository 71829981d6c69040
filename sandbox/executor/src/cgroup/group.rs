//! A mark on the processes of one exec, so that they can be ended together, also those that left
//! their session and process group.
//!
//! It is a child of the container's cgroup in one hierarchy only (the v2 tree, or one v1 hierarchy
//! where there is none): limits and figures are the container's own, and making one costs a single
//! mkdir instead of one per hierarchy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::Cgroup;
use super::create;
use super::error::CgroupError;
use super::hierarchy::{Hierarchy, Host};
use super::join::{self, JoinFds};
use super::path::CgroupPath;
use super::remove;

/// How long SIGKILLed processes may take to be gone.
const WAIT: Duration = Duration::from_secs(3);

/// See [`Cgroup::group`]. Not removed when dropped.
#[derive(Debug)]
pub struct Group {
    host: Arc<Host>,
    path: CgroupPath,
}

impl Cgroup {
    /// Makes the group `name` in this cgroup.
    ///
    /// # Errors
    /// [`CgroupError::Create`] naming the folder, [`CgroupError::NoHierarchy`].
    pub fn group(&self, name: &str) -> Result<Group, CgroupError> {
        let path = self.path.child(name)?;
        let hierarchy = marking(&self.host)?;
        match create::mkdir(hierarchy, &path) {
            Ok(_) => Ok(Group { host: self.host.clone(), path }),
            Err(errno) => Err(CgroupError::Create { dir: hierarchy.dir_path(&path), errno, hint: "" }),
        }
    }
}

/// The hierarchy in which groups are made.
fn marking(host: &Host) -> Result<&Hierarchy, CgroupError> {
    let v1 = || ["freezer", "pids"].iter().find_map(|name| host.v1.iter().find(|h| h.has(name)));
    host.v2.as_ref().or_else(v1).or(host.v1.first()).ok_or(CgroupError::NoHierarchy)
}

impl Group {
    /// Opens what a process needs to get in: the group, and the container's cgroup everywhere else.
    ///
    /// # Errors
    /// [`CgroupError::NotFound`] when the container's cgroup is gone.
    pub fn join(&self) -> Result<JoinFds, CgroupError> {
        let gone = || CgroupError::NotFound { path: self.path.clone() };
        let container = self.path.parent().ok_or_else(gone)?;
        let hierarchy = marking(&self.host)?;
        let mut fds = join::join(&self.host, &container)?;
        let dir = hierarchy.dir(&self.path)?.ok_or_else(gone)?;
        if self.host.v2.is_some() {
            fds.v2 = Some(dir.into_fd());
        } else if let Some(n) = self.host.v1.iter().position(|h| std::ptr::eq(h, hierarchy)) {
            fds.v1_tasks[n] = dir.open_file("tasks", OFlags::WRONLY)?;
        }
        Ok(fds)
    }

    /// Kills all in it and waits until they are gone.
    ///
    /// # Errors
    /// [`CgroupError::StillPopulated`] when some survive.
    #[expect(clippy::disallowed_methods, reason = "this runs on a thread of blocking work")]
    pub fn kill(&self) -> Result<(), CgroupError> {
        let Some(dir) = marking(&self.host)?.dir(&self.path)? else { return Ok(()) };
        let started = Instant::now();
        let mut pause = Duration::from_micros(200);
        loop {
            let text = dir.read_all("cgroup.procs")?.unwrap_or_default();
            let pids: Vec<Pid> = text.lines().filter_map(|l| Pid::from_raw(l.parse().ok()?)).collect();
            if pids.is_empty() {
                return Ok(());
            }
            if started.elapsed() > WAIT {
                let waited_ms = u64::try_from(WAIT.as_millis()).unwrap_or(u64::MAX);
                return Err(CgroupError::StillPopulated {
                    path: self.path.clone(),
                    count: pids.len(),
                    waited_ms,
                });
            }
            // Since Linux 5.14, v2: atomic, also against a process that forks faster than one can list.
            if dir.try_write("cgroup.kill", "1").is_err() {
                for pid in pids {
                    // Gone in the meantime is fine; others are tried again.
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                }
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Removes it unless a process is still in it. True when it is gone.
    ///
    /// # Errors
    /// [`CgroupError::Remove`] naming the folder.
    pub fn remove_if_empty(&self) -> Result<bool, CgroupError> {
        let hierarchy = marking(&self.host)?;
        match remove::rmdir(hierarchy, &self.path) {
            Ok(()) => Ok(true),
            Err(Errno::BUSY | Errno::NOTEMPTY) => Ok(false),
            Err(errno) => Err(CgroupError::Remove { dir: hierarchy.dir_path(&self.path), errno }),
        }
    }
}
