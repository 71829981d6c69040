//! The first steps of a new process: it drops resources and joins namespaces, before it has a root.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior, setsid, umask};
use rustix::thread::CapabilitySet;

use super::error::{At, Stage, StageError};
use super::report::Reporter;
use super::spawn::InCgroup;
use super::{Fds, Stdio, credentials, keyring, limits, streams};
use crate::ids::ContainerId;
use crate::plan::{CgroupJoin, FdIndex, Hooks, Process};
use crate::sys;
use crate::user_namespace::UserNamespace;

/// The inputs for a new process of a container, its first or a later one.
pub(crate) struct Setup<'a> {
    pub id: &'a ContainerId,
    pub process: &'a Process,
    pub cgroup: &'a CgroupJoin,
    /// Of its terminal.
    pub size: Option<(u16, u16)>,
    /// How many descriptors from 3 on are the process's.
    pub preserved: u32,
    /// Only for a container's first process.
    pub hooks: Option<&'a Hooks>,
    pub gate: Option<BorrowedFd<'a>>,
    pub fds: Fds<'a>,
}

impl Setup<'_> {
    /// The first part of both kinds of setup: gives up what it has from the monitor, and joins the
    /// container's session keyring and cgroups.
    pub(super) fn begin(
        &self,
        stdio: Stdio,
        needed: &[BorrowedFd<'_>],
        needs: CapabilitySet,
        reporter: &Reporter,
        joined: InCgroup,
    ) -> Result<(), StageError> {
        self.close_others(&stdio, needed, reporter, Some(joined))?;
        self.give_up(needs)?;
        sys::accept_signals();
        self.lead_session(stdio, self.process.uid)?;
        keyring::join(self.id)?;
        self.join_cgroups(reporter, joined)
    }

    /// Other processes of its PID namespace can see this one from its clone on, and those with
    /// CAP_SYS_PTRACE can inspect it, and follow its descriptors. So it gives up first what it does not need.
    /// `joined`: None when it has no cgroups to join any more.
    pub(super) fn close_others(
        &self,
        stdio: &Stdio,
        needed: &[BorrowedFd<'_>],
        reporter: &Reporter,
        joined: Option<InCgroup>,
    ) -> Result<(), StageError> {
        set_dumpable_behavior(DumpableBehavior::NotDumpable).at(Stage::Clone, "hide from other processes")?;
        let needed = needed.iter().copied().chain([reporter.as_fd()]);
        let cgroups = joined.map_or(Ok(vec![]), |joined| self.cgroups_to_join(joined))?;
        let keep = self.others_than_cgroups().chain(cgroups).chain(streams::open_ones(stdio)).chain(needed);
        let keep: Vec<_> = keep.chain(self.gate).collect();
        sys::close_others(3 + self.preserved, &keep).at(Stage::CloseDescriptors, "of the monitor")
    }

    /// Gives up all rights that neither the process nor its setup `needs`.
    pub(super) fn give_up(&self, needs: CapabilitySet) -> Result<(), StageError> {
        credentials::drop_bounding(self.process)?;
        credentials::give_up_all_but(self.process, needs)
    }

    /// Has its own session and streams. `owner` of the pipes: by the number that the user has here.
    pub(super) fn lead_session(&self, stdio: Stdio, owner: u32) -> Result<(), StageError> {
        setsid().at(Stage::Clone, "make a session")?;
        streams::connect(if self.process.terminal { Stdio::default() } else { stdio }, owner)?;
        // Nodes and folders get the modes that they are asked for; the process's own comes later.
        umask(Mode::empty());
        Ok(())
    }

    /// The same for a process that is to enter a user namespace, where it has all rights at first and none on
    /// the host; what is in there cannot inspect it before. See `child::enter_namespaces`.
    pub(super) fn begin_to_enter(
        &self,
        user: &UserNamespace,
        stdio: Stdio,
        needed: &[BorrowedFd<'_>],
        reporter: &Reporter,
        joined: InCgroup,
    ) -> Result<(), StageError> {
        self.close_others(&stdio, needed, reporter, Some(joined))?;
        sys::accept_signals();
        self.lead_session(stdio, streams::owner(user, self.process.uid)?)?;
        limits::raise(&self.process.rlimits)?;
        self.join_cgroups(reporter, joined)
    }

    /// Moves into the cgroups that the clone could not be born in.
    pub(super) fn join_cgroups(&self, reporter: &Reporter, joined: InCgroup) -> Result<(), StageError> {
        join_cgroups(self.cgroup, self.fds, joined)?;
        // A folder of the host's mount of cgroups leads to the host's root.
        sys::close_these(&self.cgroups_to_join(joined)?).at(Stage::CloseDescriptors, "of cgroups")?;
        // After the cgroups, as a kernel before 6.2 forgets it when the cpuset changes.
        if let Err(errno) = sys::reset_cpu_affinity() {
            reporter.note(Stage::CpuAffinity, format!("to all CPUs: {errno}: that of the runtime is kept"));
        }
        Ok(())
    }
}

impl<'a> Setup<'a> {
    /// The descriptors by which a process joins its cgroups.
    fn cgroups_to_join(&self, joined: InCgroup) -> Result<Vec<BorrowedFd<'a>>, StageError> {
        let v2 = self.cgroup.v2.filter(|_| joined == InCgroup::No);
        self.cgroup.v1_tasks.iter().copied().chain(v2).map(|index| self.fds.get(index)).collect()
    }

    fn others_than_cgroups(&self) -> impl Iterator<Item = BorrowedFd<'a>> {
        let cgroups =
            |index: &FdIndex| self.cgroup.v2 == Some(*index) || self.cgroup.v1_tasks.contains(index);
        self.fds.numbered().filter(move |(index, _)| !cgroups(index)).map(|(_, fd)| fd)
    }
}

/// `0` is the writer; by `tasks` the kernel moves one thread without the lock that moving a whole process takes.
fn join_cgroups(join: &CgroupJoin, fds: Fds<'_>, joined: InCgroup) -> Result<(), StageError> {
    for &tasks in &join.v1_tasks {
        rustix::io::write(fds.get(tasks)?, b"0").map_err(cgroup_refused)?;
    }
    let Some(v2) = join.v2.filter(|_| joined == InCgroup::No) else { return Ok(()) };
    let procs = openat(fds.get(v2)?, c"cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    let procs = procs.at(Stage::JoinCgroup, "cgroup.procs")?;
    rustix::io::write(procs, b"0").map(drop).map_err(cgroup_refused)
}

fn cgroup_refused(errno: Errno) -> StageError {
    let why = match errno {
        Errno::NOSPC => "of the container: its cpuset names no CPUs or no memory nodes",
        Errno::NODEV => "of the container: it has been removed",
        Errno::BUSY => "of the container: it has cgroups below it that controllers are enabled for",
        errno => return StageError::new(Stage::JoinCgroup, errno, "of the container"),
    };
    StageError::explained(Stage::JoinCgroup, errno, why)
}
