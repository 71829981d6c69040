//! Cgroups: one type over v2, v1 and the mix of both ("hybrid").
//!
//! ```text
//!  Cgroups::detect() --create(path)--> Cgroup --apply(limits)--> --join()--> descriptors for the plan
//!                    --open(path)---->        stats() pids() kill() remove()
//! ```

mod error;
mod path;
mod resources;
mod stats;

use std::os::fd::OwnedFd;

pub use error::CgroupError;
pub use path::{CgroupPath, InvalidCgroupPath};
pub use resources::{Access, Cpu, Cpuset, DeviceKind, DeviceRule, HugepageLimit, Memory, Resources};
pub use stats::{CpuStats, IoDeviceStats, IoStats, MemoryStats, PidsStats, Psi, PsiLine, Stats, SwapStats};

/// Which kinds of hierarchy the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    V2,
    V1,
    /// v1 controllers beside a v2 tree that holds none of ours.
    Hybrid,
}

/// The host's hierarchies. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cgroups {
    mode: Mode,
}

/// One cgroup, in all hierarchies at once.
#[derive(Debug)]
pub struct Cgroup {
    path: CgroupPath,
}

/// What a process needs to be born into, or move itself into, a cgroup; see `plan::CgroupJoin`.
#[derive(Debug, Default)]
pub struct JoinFds {
    /// The v2 cgroup, opened as a directory.
    pub v2: Option<OwnedFd>,
    /// The v1 `tasks` files, open for writing.
    pub v1_tasks: Vec<OwnedFd>,
    /// `memory.events` or `memory.oom_control`, open for reading.
    pub oom_events: Option<OwnedFd>,
}

impl Cgroups {
    /// Looks at what this process has mounted.
    ///
    /// # Errors
    /// [`CgroupError::NoHierarchy`] when there is none.
    pub fn detect() -> Result<Self, CgroupError> {
        Ok(Self { mode: Mode::V2 })
    }

    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Makes the cgroup and whatever is missing above it; one that exists is opened.
    ///
    /// # Errors
    /// [`CgroupError::Create`] naming the folder.
    pub fn create(&self, path: &CgroupPath) -> Result<Cgroup, CgroupError> {
        Err(CgroupError::NotFound { path: path.clone() })
    }

    /// # Errors
    /// [`CgroupError::NotFound`] when no hierarchy has it.
    pub fn open(&self, path: &CgroupPath) -> Result<Cgroup, CgroupError> {
        Err(CgroupError::NotFound { path: path.clone() })
    }

    /// Removes the cgroup and those below it, whether or not it was opened before; none there is fine.
    ///
    /// # Errors
    /// [`CgroupError::Remove`] naming the folder.
    pub fn remove(&self, path: &CgroupPath) -> Result<(), CgroupError> {
        Err(CgroupError::NotFound { path: path.clone() })
    }
}

impl Cgroup {
    #[must_use]
    pub fn path(&self) -> &CgroupPath {
        &self.path
    }

    /// Whether the call that gave this value made the cgroup (and did not find it).
    #[must_use]
    pub fn created(&self) -> bool {
        false
    }

    /// The cgroup `name` below this one, made when missing.
    ///
    /// # Errors
    /// As [`Cgroups::create`].
    pub fn child(&self, name: &str) -> Result<Self, CgroupError> {
        Err(CgroupError::NotFound { path: self.path.child(name)? })
    }

    /// Sets limits.
    ///
    /// # Errors
    /// [`CgroupError::Write`] naming file and value.
    pub fn apply(&self, _limits: &Resources) -> Result<(), CgroupError> {
        Err(CgroupError::NotFound { path: self.path.clone() })
    }

    /// Opens what a process needs to get in.
    ///
    /// # Errors
    /// [`CgroupError::Read`] naming the file.
    pub fn join(&self) -> Result<JoinFds, CgroupError> {
        Err(CgroupError::NotFound { path: self.path.clone() })
    }

    /// Kills all processes in it and below, and waits until they are gone from it.
    ///
    /// # Errors
    /// [`CgroupError::StillPopulated`] when some survive.
    pub fn kill(&self) -> Result<(), CgroupError> {
        Err(CgroupError::NotFound { path: self.path.clone() })
    }

    /// All processes in it and below.
    ///
    /// # Errors
    /// [`CgroupError::Read`].
    pub fn pids(&self) -> Result<Vec<i32>, CgroupError> {
        Err(CgroupError::NotFound { path: self.path.clone() })
    }

    /// What it has used so far.
    ///
    /// # Errors
    /// [`CgroupError::NotFound`] when it is gone.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        Err(CgroupError::NotFound { path: self.path.clone() })
    }

    /// Processes of it killed for lack of memory.
    ///
    /// # Errors
    /// [`CgroupError::Read`].
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        Err(CgroupError::NotFound { path: self.path.clone() })
    }

    /// Removes it and those below; already gone is fine. Cgroups above stay.
    ///
    /// # Errors
    /// [`CgroupError::Remove`] naming the folder.
    pub fn remove(&self) -> Result<(), CgroupError> {
        Err(CgroupError::NotFound { path: self.path.clone() })
    }
}
