//! Lists the processes of a cgroup, and kills them.

use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::dir::{BUFFER, Dir};
use super::error::CgroupError;
use super::freeze;
use super::hierarchy::{Controller, ControllerHierarchy, Hierarchy, Host};
use super::path::CgroupPath;
use super::tree;

/// Time limit for killed processes to end.
const WAIT: Duration = Duration::from_secs(5);
/// The time after which remaining processes are probably paused by a v1 freezer.
const PAUSED: Duration = Duration::from_millis(50);

/// Kills everything in `path` and below and waits until it has ended.
#[expect(clippy::disallowed_methods, reason = "this runs on a thread of blocking work")]
pub(super) fn kill(host: &Host, path: &CgroupPath) -> Result<(), CgroupError> {
    let started = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        send(host, path)?;
        let left = pids(host, path)?.len();
        if left == 0 {
            return Ok(());
        }
        if started.elapsed() > PAUSED {
            freeze::thaw_v1(host, path);
        }
        if started.elapsed() > WAIT {
            let waited_ms = u64::try_from(WAIT.as_millis()).unwrap_or(u64::MAX);
            return Err(CgroupError::StillPopulated { path: path.clone(), count: left, waited_ms });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// One round of SIGKILL to everything in `path` and below.
pub(super) fn send(host: &Host, path: &CgroupPath) -> Result<(), CgroupError> {
    let killed = kill_whole(host, path)?;
    let others = || -> Result<Vec<i32>, CgroupError> {
        let mut left = pids(host, path)?;
        left.retain(|pid| !killed.contains(pid));
        Ok(left)
    };
    if others()?.is_empty() {
        return Ok(());
    }
    // Frozen processes cannot fork while they are listed. A v1 freezer must resume them so that they can die.
    let frozen = Frozen::new(host, path);
    for pid in others()? {
        if let Some(pid) = Pid::from_raw(pid) {
            match rustix::process::kill_process(pid, Signal::KILL) {
                // Gone in the meantime.
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => tracing::warn!(%path, pid = pid.as_raw_nonzero().get(), %errno, "cannot kill"),
            }
        }
    }
    drop(frozen);
    Ok(())
}

/// `cgroup.kill` of the v2 tree (Linux 5.14): atomic, even against a process that forks faster than it can be
/// listed. Returns the killed processes that have not ended yet.
fn kill_whole(host: &Host, path: &CgroupPath) -> Result<Vec<i32>, CgroupError> {
    let mut dying = Vec::new();
    let Some(v2) = &host.v2 else { return Ok(dying) };
    let Some(dir) = v2.dir(path)? else { return Ok(dying) };
    match dir.try_write("cgroup.kill", "1") {
        Ok(()) => collect(v2, path, &mut dying)?,
        Err(Errno::NOENT | Errno::OPNOTSUPP | Errno::NODEV) => {}
        Err(errno) => return Err(dir.write_error("cgroup.kill", "1", errno)),
    }
    Ok(dying)
}

/// A v1 freezer, frozen until dropped.
struct Frozen(Option<Dir>);

impl Frozen {
    /// Best effort: without a freezer the listing is repeated until it is empty.
    fn new(host: &Host, path: &CgroupPath) -> Self {
        let Some(ControllerHierarchy::V1(freezer)) = host.hierarchy_of(Controller::Freezer) else {
            return Self(None);
        };
        let dir = freezer.dir(path).ok().flatten();
        Self(dir.filter(|dir| dir.try_write("freezer.state", "FROZEN").is_ok()))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Some(dir) = &self.0 {
            let _ = dir.try_write("freezer.state", "THAWED");
        }
    }
}

/// All processes of `path` and below, each once.
pub(super) fn pids(host: &Host, path: &CgroupPath) -> Result<Vec<i32>, CgroupError> {
    let mut found = Vec::new();
    if let Some(v2) = &host.v2 {
        collect(v2, path, &mut found)?;
    }
    // v1: one hierarchy is enough, as processes are moved into all of them together.
    let v1 = [Controller::Pids, Controller::Freezer, Controller::Memory, Controller::Cpu]
        .into_iter()
        .find_map(|c| host.v1.iter().find(|h| h.has(c.v1_name())));
    if let Some(v1) = v1.or(host.v1.first()) {
        collect(v1, path, &mut found)?;
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Adds the processes of `path` and below in one hierarchy.
pub(super) fn collect(
    hierarchy: &Hierarchy,
    path: &CgroupPath,
    found: &mut Vec<i32>,
) -> Result<(), CgroupError> {
    let Some(dir) = hierarchy.dir(path)? else { return Ok(()) };
    tree::walk(dir, |dir| own(dir, found)).map_err(|failed| match failed {
        Failed::Read(error) => error,
        Failed::Walk(errno) => CgroupError::Host { path: hierarchy.dir_path(path), source: errno.into() },
    })
}

/// Adds the processes of a cgroup and of those below it.
pub(super) fn collect_below(dir: &Dir, found: &mut Vec<i32>) -> Result<(), CgroupError> {
    let walk = |found: &mut Vec<i32>| {
        own(dir, found)?;
        walk_below(dir, found)
    };
    walk(found).map_err(|failed| failed.of(dir))
}

/// Like [`collect_below`], with the file of the cgroup itself kept open. Not for v1, where an open file that is
/// read every second shows the same list for ever.
pub(super) fn collect_kept(dir: &Dir, found: &mut Vec<i32>) -> Result<(), CgroupError> {
    let mut buffer = [0u8; BUFFER];
    let list = match dir.read_opt(PROCESSES, &mut buffer) {
        Err(CgroupError::Read { errno: Errno::NODEV, .. }) => return Ok(()),
        list => list?.unwrap_or_default(),
    };
    // A full buffer may lack the rest.
    if list.len() > BUFFER / 2 {
        return collect_below(dir, found);
    }
    add(list, found);
    walk_below(dir, found).map_err(|failed| failed.of(dir))
}

const PROCESSES: &str = "cgroup.procs";

/// Either of the two ways in which a walk fails.
enum Failed {
    Walk(Errno),
    Read(CgroupError),
}

impl From<Errno> for Failed {
    fn from(errno: Errno) -> Self {
        Self::Walk(errno)
    }
}

impl Failed {
    fn of(self, dir: &Dir) -> CgroupError {
        match self {
            Self::Read(error) => error,
            Self::Walk(errno) => dir.read_error(PROCESSES, errno),
        }
    }
}

fn walk_below(dir: &Dir, found: &mut Vec<i32>) -> Result<(), Failed> {
    for name in tree::children(dir)? {
        match dir.child(&name) {
            Ok(below) => tree::walk(below, |dir| own(dir, found))?,
            Err(Errno::NOENT | Errno::NODEV) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn own(dir: &Dir, found: &mut Vec<i32>) -> Result<(), Failed> {
    if let Some(list) = dir.read_all(PROCESSES).map_err(Failed::Read)? {
        add(&list, found);
    }
    Ok(())
}

/// 0 stands for a process of another PID namespace.
fn add(list: &str, found: &mut Vec<i32>) {
    found.extend(list.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
}
