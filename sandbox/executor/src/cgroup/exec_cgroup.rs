//! The cgroup of a command in a container, with which all its processes can be killed at its deadline,
//! including those that left its session and process group.
//!
//! It is a child of the container's cgroup in one hierarchy only (the v2 tree, or else one v1 hierarchy) and
//! enables no controllers: limits and statistics are the container's own. Its name is a small number, and it
//! is kept for the next command, so that a probe every few seconds makes neither new cgroups nor new time
//! series in monitoring.

use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::Pid;

use super::create;
use super::dir::{Dir, keyed};
use super::error::CgroupError;
use super::hierarchy::{Extent, Hierarchy, Host};
use super::join::{self, JoinFds};
use super::kill;
use super::killed_exec_cgroup::KilledExecCgroup;
use super::path::CgroupPath;
use super::remove;
use super::tree;
use super::{Cgroup, Cgroups};

/// Lists of processes to move away, against processes that fork meanwhile.
const MOVES: usize = 20;
const PROCESSES: &str = "cgroup.procs";

/// See [`Cgroup::make_exec_cgroup`].
#[derive(Debug, Clone)]
pub struct ExecCgroup {
    host: Arc<Host>,
    path: CgroupPath,
}

/// An exec cgroup that stays open, as do the files for joining it: the next command starts in it without a path
/// to look up, of which there are about ten on v1. Its container's cgroup stays in the kernel, though removed,
/// until this is dropped.
#[derive(Debug)]
pub struct OpenExecCgroup {
    exec: ExecCgroup,
    dir: Dir,
    join_fds: JoinFds,
}

impl Cgroups {
    /// Opens the cgroup with this number of the container `container`. None when there is none.
    ///
    /// # Errors
    /// [`CgroupError::NoHierarchy`], [`CgroupError::Read`], [`CgroupError::NotFound`].
    pub fn open_exec_cgroup(
        &self,
        container: &CgroupPath,
        number: u32,
    ) -> Result<Option<OpenExecCgroup>, CgroupError> {
        let exec = ExecCgroup::numbered(&self.host, container, number)?;
        let hierarchy = self.host.exec_hierarchy()?;
        let (Some(dir), Some(joined)) = (hierarchy.dir(&exec.path)?, hierarchy.dir(&exec.path)?) else {
            return Ok(None);
        };
        let join_fds = exec.join_in(joined)?;
        Ok(Some(OpenExecCgroup { exec, dir: dir.keep_files(), join_fds }))
    }
}

impl OpenExecCgroup {
    /// The cgroup and descriptors for joining it, if it is empty. None when it must be made or emptied: that
    /// may wait for others, and this does not.
    ///
    /// # Errors
    /// [`CgroupError::Read`], also when it is gone.
    pub fn take_if_idle(&self) -> Result<Option<(ExecCgroup, JoinFds)>, CgroupError> {
        if has_folders(&self.dir) || self.populated()?.ok_or_else(|| self.exec.gone())? {
            return Ok(None);
        }
        let duplicate = |errno| CgroupError::Read { file: self.exec.path.to_string(), errno };
        Ok(Some((self.exec.clone(), self.join_fds.try_clone().map_err(duplicate)?)))
    }

    /// As [`ExecCgroup::is_populated`], without a path to look up.
    ///
    /// # Errors
    /// [`CgroupError::Read`].
    pub fn is_populated(&self) -> Result<bool, CgroupError> {
        // A removed cgroup has no processes.
        Ok(self.populated()?.unwrap_or(false))
    }

    /// Whether there are processes in it or below; None when it is removed.
    fn populated(&self) -> Result<Option<bool>, CgroupError> {
        if self.exec.host.v2.is_none() {
            // Opened anew: on v1 an open file goes on showing the list of its first reading.
            if self.dir.read_all(PROCESSES)?.is_none() {
                return Ok(None);
            }
            let mut pids = Vec::new();
            kill::collect_below(&self.dir, &mut pids)?;
            return Ok(Some(!pids.is_empty()));
        }
        // One read of a file that stays open.
        let mut buffer = [0; 256];
        match self.dir.read_opt("cgroup.events", &mut buffer) {
            Err(CgroupError::Read { errno: Errno::NODEV, .. }) => Ok(None),
            events => {
                let events = events?;
                Ok(events.map(|text| keyed(text).any(|(key, number)| key == "populated" && number > 0)))
            }
        }
    }

    /// As [`ExecCgroup::kill`], without a path to look up.
    #[must_use = "it must be removed"]
    pub fn kill(self) -> KilledExecCgroup {
        KilledExecCgroup::new(self.exec.host, self.exec.path, self.dir)
    }
}

impl Cgroup {
    /// Makes the cgroup with this number for commands in this container, and replaces one of another server.
    ///
    /// # Errors
    /// [`CgroupError::Create`] naming the folder, [`CgroupError::NoHierarchy`]; [`CgroupError::Remove`] when
    /// processes live in cgroups below the old one: the caller can try another number.
    pub fn make_exec_cgroup(&self, number: u32) -> Result<ExecCgroup, CgroupError> {
        let (exec, hierarchy) = self.numbered(number)?;
        if let Some(old) = hierarchy.dir(&exec.path)? {
            empty(hierarchy, &exec.path, &old, &self.path)?;
            remove::remove_in(hierarchy, &exec.path)
                .map_err(|errno| CgroupError::Remove { dir: hierarchy.dir_path(&exec.path), errno })?;
        }
        make(hierarchy, &exec.path)?;
        Ok(exec)
    }

    /// The existing cgroup with this number, for the next command: only one at a time may use it. Processes
    /// that the last one left in it are moved to the container's cgroup.
    ///
    /// # Errors
    /// [`CgroupError::NoHierarchy`], [`CgroupError::Read`], [`CgroupError::Create`]; [`CgroupError::Remove`]
    /// when processes live in cgroups that the last one made below it: the caller can try another number.
    pub fn reuse_exec_cgroup(&self, number: u32) -> Result<ExecCgroup, CgroupError> {
        let (exec, hierarchy) = self.numbered(number)?;
        match hierarchy.dir(&exec.path)? {
            Some(dir) => {
                empty(hierarchy, &exec.path, &dir, &self.path)?;
                clear_below(hierarchy, &exec.path, dir)?;
            }
            // A container with a writable cgroup file system can remove it.
            None => make(hierarchy, &exec.path)?,
        }
        Ok(exec)
    }

    /// Whether processes live in the cgroup number `number`.
    ///
    /// # Errors
    /// [`CgroupError::NoHierarchy`], [`CgroupError::Read`].
    pub fn is_exec_cgroup_populated(&self, number: u32) -> Result<bool, CgroupError> {
        let (exec, hierarchy) = self.numbered(number)?;
        let Some(dir) = hierarchy.dir(&exec.path)? else { return Ok(false) };
        Ok(!processes(&dir)?.is_empty())
    }

    fn numbered(&self, number: u32) -> Result<(ExecCgroup, &Hierarchy), CgroupError> {
        Ok((ExecCgroup::numbered(&self.host, &self.path, number)?, self.host.exec_hierarchy()?))
    }
}

fn make(hierarchy: &Hierarchy, path: &CgroupPath) -> Result<(), CgroupError> {
    let failed = |errno| CgroupError::Create { dir: hierarchy.dir_path(path), errno, hint: "" };
    create::mkdir(hierarchy, path).map(drop).map_err(failed)
}

/// Moves the processes in `dir`, the folder of `path`, to the container's cgroup. The kernel refuses that for a
/// container that manages cgroups of its own, whose cgroup has controllers enabled for its children.
fn empty(
    hierarchy: &Hierarchy,
    path: &CgroupPath,
    dir: &Dir,
    container: &CgroupPath,
) -> Result<(), CgroupError> {
    for _ in 0..MOVES {
        let pids = processes(dir)?;
        if pids.is_empty() {
            return Ok(());
        }
        let Some(container) = hierarchy.dir(container)? else { return Ok(()) };
        for pid in pids {
            // A process that has ended meanwhile needs no move.
            let _ = container.try_write(PROCESSES, &pid.as_raw_nonzero().to_string());
        }
    }
    match processes(dir)?.is_empty() {
        true => Ok(()),
        false => Err(CgroupError::Remove { dir: hierarchy.dir_path(path), errno: Errno::BUSY }),
    }
}

/// Removes the cgroups that a command made below its own. Those with processes stay with the container.
fn clear_below(hierarchy: &Hierarchy, path: &CgroupPath, dir: Dir) -> Result<(), CgroupError> {
    if !has_folders(&dir) {
        return Ok(());
    }
    let refused = |errno| CgroupError::Remove { dir: hierarchy.dir_path(path), errno };
    let mut pids = Vec::new();
    kill::collect(hierarchy, path, &mut pids)?;
    if !pids.is_empty() {
        return Err(refused(Errno::BUSY));
    }
    tree::remove_below(dir).map_err(refused)
}

/// A folder has a link of its name, one from itself, and one from each folder in it.
fn has_folders(dir: &Dir) -> bool {
    rustix::fs::fstat(dir.fd()).is_ok_and(|stat| stat.st_nlink > 2)
}

fn processes(dir: &Dir) -> Result<Vec<Pid>, CgroupError> {
    let text = dir.read_all(PROCESSES)?.unwrap_or_default();
    Ok(text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect())
}

impl ExecCgroup {
    fn numbered(host: &Arc<Host>, container: &CgroupPath, number: u32) -> Result<Self, CgroupError> {
        Ok(Self { host: host.clone(), path: container.child(&format!("exec-{number}"))? })
    }

    /// Opens the descriptors for joining: of this cgroup, and of the container's in all other hierarchies.
    ///
    /// # Errors
    /// [`CgroupError::NotFound`] when the container's cgroup is gone.
    pub fn join(&self) -> Result<JoinFds, CgroupError> {
        let dir = self.host.exec_hierarchy()?.dir(&self.path)?.ok_or_else(|| self.gone())?;
        self.join_in(dir)
    }

    fn join_in(&self, dir: Dir) -> Result<JoinFds, CgroupError> {
        let container = self.path.parent().ok_or_else(|| self.gone())?;
        let hierarchy = self.host.exec_hierarchy()?;
        let mut fds = JoinFds {
            v1_tasks: join::open_v1_tasks(&self.host, &container, Extent::All)?,
            ..JoinFds::default()
        };
        if self.host.v2.is_some() {
            fds.v2 = Some(dir.into_fd());
        } else if let Some(n) = self.host.v1.iter().position(|h| std::ptr::eq(h, hierarchy)) {
            fds.v1_tasks[n] = dir.open_file("tasks", OFlags::WRONLY)?;
        }
        Ok(fds)
    }

    fn gone(&self) -> CgroupError {
        CgroupError::NotFound { path: self.path.clone() }
    }

    /// Whether processes live in it or below.
    ///
    /// # Errors
    /// [`CgroupError::NoHierarchy`], [`CgroupError::Read`].
    pub fn is_populated(&self) -> Result<bool, CgroupError> {
        let mut pids = Vec::new();
        kill::collect(self.host.exec_hierarchy()?, &self.path, &mut pids)?;
        Ok(!pids.is_empty())
    }

    /// Sends SIGKILL to all processes in it and below, once and without waiting. None when it is gone. It cannot be
    /// used again: since Linux 6.14 a process that is cloned into a cgroup is killed when `cgroup.kill` was ever
    /// written there and not in its parent process's cgroup.
    ///
    /// # Errors
    /// [`CgroupError::NoHierarchy`], [`CgroupError::Read`].
    pub fn kill(self) -> Result<Option<KilledExecCgroup>, CgroupError> {
        let dir = self.host.exec_hierarchy()?.dir(&self.path)?;
        Ok(dir.map(|dir| KilledExecCgroup::new(self.host, self.path, dir)))
    }
}
