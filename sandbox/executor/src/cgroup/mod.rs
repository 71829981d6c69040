//! Cgroups: one type over v2, v1 and the mix of both ("hybrid").
//!
//! ```text
//!  Cgroups::detect() --create(path)--> Cgroup --apply(limits)--> --join()--> descriptors for the plan
//!                    --open(path)---->        stats() pids() kill() remove()
//! ```
//!
//! One file per controller, its v1 and v2 side by side. On a hybrid host each cgroup is also made in the v2
//! tree, for `cgroup.kill` and so that processes can be started in it.

mod apply;
mod cached_limits;
mod cpu;
mod cpuset;
mod create;
mod devices;
mod dir;
mod error;
mod exec_cgroup;
mod freeze;
mod hierarchy;
mod hugetlb;
mod io;
mod join;
mod kill;
mod killed_exec_cgroup;
mod memory;
mod path;
mod pids;
mod psi;
mod rdma;
mod remove;
mod resources;
mod stats;
#[cfg(test)]
mod tests;
mod tree;
mod usage;
mod walk;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

pub use devices::HARMLESS_DEVICES;
pub use error::CgroupError;
pub use exec_cgroup::{ExecCgroup, OpenExecCgroup};
use hierarchy::{Controller, Extent, Host};
pub use join::JoinFds;
pub use killed_exec_cgroup::KilledExecCgroup;
pub use path::{CgroupPath, InvalidCgroupPath};
pub use resources::{
    Access, BlockIo, Cpu, Cpuset, DeviceKind, DeviceRule, HugepageLimit, IoRate, IoRateKind, IoWeight,
    Memory, RdmaLimit, Resources,
};
pub use stats::{
    CpuStats, Detail, IoDeviceStats, IoStats, MemoryStats, PidsStats, Psi, PsiLine, Stats, SwapStats,
};

/// The kinds of hierarchies of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    V2,
    V1,
    /// v1 controllers beside a v2 tree whose controllers are not used.
    Hybrid,
}

impl Mode {
    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::V1 => "v1",
            Self::Hybrid => "v1 and v2 (hybrid)",
        }
    }
}

/// The host's hierarchies. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cgroups {
    host: Arc<Host>,
}

/// One cgroup, in all hierarchies at once. Holds no descriptors; cheap to clone and keep.
#[derive(Debug, Clone)]
pub struct Cgroup {
    host: Arc<Host>,
    path: CgroupPath,
    extent: Extent,
    created: bool,
}

/// Reads one cgroup's counters repeatedly; see [`Cgroup::stats_reader`].
#[derive(Debug)]
pub struct StatsReader {
    counters: usage::Counters,
}

impl StatsReader {
    /// The usage of the cgroup so far.
    ///
    /// # Errors
    /// [`CgroupError::Read`], with ENODEV when the cgroup is gone.
    pub fn read(&mut self, detail: Detail) -> Result<Stats, CgroupError> {
        self.counters.read(detail)
    }

    /// As [`Cgroup::pids`].
    ///
    /// # Errors
    /// [`CgroupError::Read`].
    pub fn pids(&self) -> Result<Vec<i32>, CgroupError> {
        self.counters.pids()
    }

    /// Must be called when limits have been set: [`Detail::cached_limits`].
    pub fn forget_limits(&mut self) {
        self.counters.forget_limits();
    }
}

impl Cgroups {
    /// Reads this process's mount table.
    ///
    /// # Errors
    /// [`CgroupError::NoHierarchy`] when there is none.
    pub fn detect() -> Result<Self, CgroupError> {
        Ok(Self { host: Arc::new(Host::detect(Path::new("/proc/self/mountinfo"))?) })
    }

    #[must_use]
    pub fn mode(&self) -> Mode {
        match (&self.host.v2, self.host.v1.is_empty()) {
            (_, true) => Mode::V2,
            (None, false) => Mode::V1,
            (Some(_), false) => Mode::Hybrid,
        }
    }

    /// The resources that it can count and limit: v1's controllers, and without those v2's.
    #[must_use]
    pub fn controllers(&self) -> Vec<String> {
        let v2 = self.host.v2.iter().filter(|_| self.host.v1.is_empty());
        let mut all: Vec<String> =
            self.host.v1.iter().chain(v2).flat_map(|hierarchy| hierarchy.controllers.clone()).collect();
        all.retain(|name| !name.starts_with("name="));
        all.sort();
        all
    }

    /// The controllers of each v1 hierarchy (`cpu,cpuacct`), as a container's /sys/fs/cgroup names them.
    #[must_use]
    pub fn v1_hierarchies(&self) -> Vec<String> {
        self.host.v1.iter().map(|h| h.controllers.join(",")).collect()
    }

    /// Makes the cgroup and its missing parents; an existing one is opened.
    ///
    /// # Errors
    /// [`CgroupError::Create`] naming the folder.
    pub fn create(&self, path: &CgroupPath) -> Result<Cgroup, CgroupError> {
        self.create_in(path, None, Extent::All, create::Controllers::Enabled)
    }

    /// Like [`create`](Self::create), below the cgroup `above` of another program, which is never made here:
    /// systemd would not know it.
    ///
    /// # Errors
    /// [`CgroupError::Gone`] when it does not exist, [`CgroupError::Create`] naming the folder.
    pub fn create_below(&self, above: &CgroupPath, path: &CgroupPath) -> Result<Cgroup, CgroupError> {
        self.create_in(path, Some(above), Extent::All, create::Controllers::Enabled)
    }

    /// Like [`create`](Self::create), for a supervising process of this program: without the v1 hierarchies
    /// that restrict devices, CPUs or bandwidth, which are a third of all.
    ///
    /// # Errors
    /// [`CgroupError::Create`] naming the folder.
    pub fn create_for_supervisor(&self, path: &CgroupPath) -> Result<Cgroup, CgroupError> {
        self.create_in(path, None, Extent::Supervisor, create::Controllers::Enabled)
    }

    /// The first part of [`create_for_supervisor`](Self::create_for_supervisor): the v2 hierarchy alone, or
    /// nothing without one. A process can be started there while the v1 hierarchies follow, which take ten times
    /// as long.
    ///
    /// # Errors
    /// [`CgroupError::Create`] naming the folder.
    pub fn create_v2_for_supervisor(&self, path: &CgroupPath) -> Result<Cgroup, CgroupError> {
        self.create_in(path, None, Extent::V2Only, create::Controllers::Enabled)
    }

    /// Like [`create_for_supervisor`](Self::create_for_supervisor), without controllers on v2, below the
    /// cgroup `above` of another program that contains a process: see [`create_below`](Self::create_below).
    /// With processes there, only cpu and pids could be enabled, and then the cgroups below could not have
    /// processes (`domain invalid`). A later call of the others enables them.
    ///
    /// # Errors
    /// [`CgroupError::Gone`], [`CgroupError::Create`] naming the folder.
    pub fn create_without_controllers(
        &self,
        above: &CgroupPath,
        path: &CgroupPath,
    ) -> Result<Cgroup, CgroupError> {
        self.create_in(path, Some(above), Extent::Supervisor, create::Controllers::Left)
    }

    fn create_in(
        &self,
        path: &CgroupPath,
        below: Option<&CgroupPath>,
        extent: Extent,
        controllers: create::Controllers,
    ) -> Result<Cgroup, CgroupError> {
        let created = create::create(&self.host, &create::Wanted { path, below, extent, controllers })?;
        Ok(Cgroup { host: self.host.clone(), path: path.clone(), extent, created })
    }

    /// # Errors
    /// [`CgroupError::NotFound`] when no hierarchy has it.
    pub fn open(&self, path: &CgroupPath) -> Result<Cgroup, CgroupError> {
        for hierarchy in self.host.v1.iter().chain(&self.host.v2) {
            if hierarchy.dir(path)?.is_some() {
                let (host, path, extent) = (self.host.clone(), path.clone(), Extent::All);
                return Ok(Cgroup { host, path, extent, created: false });
            }
        }
        Err(CgroupError::NotFound { path: path.clone() })
    }

    /// Removes the cgroup and those below it, whether or not it was opened before; succeeds if it does not
    /// exist.
    ///
    /// # Errors
    /// [`CgroupError::Remove`] naming the folder.
    pub fn remove(&self, path: &CgroupPath) -> Result<(), CgroupError> {
        remove::remove(&self.host, path)
    }

    /// Removes the cgroups below `path` but not `path` itself, which another program made and removes;
    /// succeeds if it does not exist.
    ///
    /// # Errors
    /// [`CgroupError::Remove`] naming the folder.
    pub fn remove_below(&self, path: &CgroupPath) -> Result<(), CgroupError> {
        remove::remove_below(&self.host, path)
    }

    /// Removes the cgroup if it is empty, and returns whether it is gone. For a parent that several may
    /// share.
    ///
    /// # Errors
    /// [`CgroupError::Remove`] naming the folder.
    pub fn remove_if_empty(&self, path: &CgroupPath) -> Result<bool, CgroupError> {
        remove::remove_if_empty(&self.host, path)
    }
}

impl Cgroups {
    /// Visits the cgroups of all hierarchies, each path once; when `visit` returns false, not those below.
    /// Changes meanwhile may be missed.
    pub fn walk(&self, visit: impl FnMut(&CgroupPath) -> bool) {
        walk::walk(&self.host, visit);
    }
}

impl Cgroup {
    #[must_use]
    pub fn path(&self) -> &CgroupPath {
        &self.path
    }

    /// Whether the call that returned this value made the cgroup.
    #[must_use]
    pub fn created(&self) -> bool {
        self.created
    }

    /// The cgroup `name` below this one, made when missing.
    ///
    /// # Errors
    /// As [`Cgroups::create`].
    pub fn child(&self, name: &str) -> Result<Self, CgroupError> {
        Cgroups { host: self.host.clone() }.create(&self.path.child(name)?)
    }

    /// Sets limits.
    ///
    /// # Errors
    /// [`CgroupError::Write`] naming file and value; [`CgroupError::Invalid`] before anything is written.
    pub fn apply(&self, limits: &Resources) -> Result<(), CgroupError> {
        apply::apply(&self.host, &self.path, limits)
    }

    /// Opens the descriptors for joining it.
    ///
    /// # Errors
    /// [`CgroupError::NotFound`], or a file cannot be opened.
    pub fn join(&self) -> Result<JoinFds, CgroupError> {
        join::join(&self.host, &self.path, self.extent)
    }

    /// Opens the v1 part of what [`Self::join`] opens.
    ///
    /// # Errors
    /// As for [`Self::join`].
    pub fn join_v1(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        join::open_v1_tasks(&self.host, &self.path, self.extent)
    }

    /// Kills all processes in it and below, and waits until they have ended (at most 5 s).
    ///
    /// # Errors
    /// [`CgroupError::StillPopulated`] when some survive.
    pub fn kill(&self) -> Result<(), CgroupError> {
        kill::kill(&self.host, &self.path)
    }

    /// Sends SIGKILL to all processes in it and below, without waiting.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn kill_nowait(&self) -> Result<(), CgroupError> {
        kill::send(&self.host, &self.path)
    }

    /// Pauses all processes in it and below, including new ones, and returns when all are paused (at most 2
    /// s). Paused processes can be killed.
    ///
    /// # Errors
    /// [`CgroupError::NotFrozen`]: a process could not be paused, and all are resumed;
    /// [`CgroupError::NotFound`]; [`CgroupError::NoController`].
    pub fn freeze(&self) -> Result<(), CgroupError> {
        freeze::freeze(&self.host, &self.path)
    }

    /// Resumes its processes; does nothing for a cgroup that is not paused.
    ///
    /// # Errors
    /// As for [`Self::freeze`].
    pub fn thaw(&self) -> Result<(), CgroupError> {
        freeze::thaw(&self.host, &self.path)
    }

    /// Whether all its processes are paused, also by a parent cgroup.
    ///
    /// # Errors
    /// As for [`Self::freeze`].
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        freeze::is_frozen(&self.host, &self.path)
    }

    /// Whether processes can join it: not so in v2 if controllers are enabled for the cgroups below.
    ///
    /// # Errors
    /// [`CgroupError::NotFound`].
    pub fn accepts_processes(&self) -> Result<bool, CgroupError> {
        join::accepts_processes(&self.host, &self.path)
    }

    /// All processes in it and below; none if it is gone.
    ///
    /// # Errors
    /// [`CgroupError::Read`].
    pub fn pids(&self) -> Result<Vec<i32>, CgroupError> {
        kill::pids(&self.host, &self.path)
    }

    /// The usage so far.
    ///
    /// # Errors
    /// [`CgroupError::NotFound`] when it is gone.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        self.stats_of(Detail::ALL)
    }

    /// The parts `detail` of the usage so far.
    ///
    /// # Errors
    /// [`CgroupError::NotFound`] when it is gone.
    pub fn stats_of(&self, detail: Detail) -> Result<Stats, CgroupError> {
        usage::Counters::open(&self.host, &self.path)?.read(detail)
    }

    /// For reading it repeatedly: keeps up to 17 descriptors open, and up to 24 after details were read, and
    /// takes a sixth of the time.
    ///
    /// # Errors
    /// [`CgroupError::NotFound`] when it is gone.
    pub fn stats_reader(&self) -> Result<StatsReader, CgroupError> {
        Ok(StatsReader { counters: usage::Counters::open(&self.host, &self.path)?.keep_files() })
    }

    /// Processes of it killed for lack of memory.
    ///
    /// # Errors
    /// [`CgroupError::Read`].
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        match apply::at(&self.host, Controller::Memory, &self.path)? {
            Some(at @ apply::At::V1(_)) => memory::oom_kills(at.dir(), "memory.oom_control"),
            Some(at @ apply::At::V2(_)) => memory::oom_kills(at.dir(), "memory.events"),
            None => Ok(0),
        }
    }

    /// Removes it and those below; succeeds if it is gone. Its parents stay.
    ///
    /// # Errors
    /// [`CgroupError::Remove`] naming the folder.
    pub fn remove(&self) -> Result<(), CgroupError> {
        remove::remove(&self.host, &self.path)
    }
}
