//! The cgroup of one exec: at the deadline it identifies all processes that the exec started.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crisp_executor::cgroup::{Cgroup, CgroupError, ExecCgroup, JoinFds, KilledExecCgroup};
use crisp_executor::compile;
use crisp_executor::plan::CgroupJoin;
use crisp_sandbox::Pod;

use crate::cause::Cause;
use crate::container::Container;
use crate::container::exec_cgroups::{self, Afterwards, OpenFiles, Taken};
use crate::service_state::{ServiceState, cgroup_path};

/// Cgroups that are skipped for one exec: each takes a second to be found in use.
const TRIES: u32 = 3;

/// An exec cgroup in use by one exec.
pub(in crate::ops) struct ExecGroup {
    cgroup: ExecCgroup,
    number: Number,
}

/// The number of an exec cgroup in use.
struct Number {
    container: Arc<Container>,
    number: exec_cgroups::Number,
    afterwards: Afterwards,
    files: Option<OpenFiles>,
}

impl Number {
    /// The lowest number that no other exec of the container uses, and whether its cgroup exists already.
    fn lowest_free(container: &Arc<Container>) -> (Self, bool) {
        let Taken { number, is_made, files } = container.exec_cgroups.take_lowest();
        (Self { container: container.clone(), number, afterwards: Afterwards::Forgotten, files }, is_made)
    }

    fn get(&self) -> u32 {
        self.number.number
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        self.container.exec_cgroups.give_back(self.number, self.afterwards, self.files.take());
    }
}

/// A number that no other exec uses, and its cgroup. Skips, and never tries again, a cgroup with processes
/// that an earlier exec left in nested cgroups, and one with processes of an earlier server's exec, which the
/// monitor may be about to kill there.
fn free(container: &Arc<Container>, cgroup: &Cgroup) -> Result<(Number, ExecCgroup), CgroupError> {
    let mut tries = 0;
    loop {
        let (mut number, is_made) = Number::lowest_free(container);
        // Its cgroup may have been made again.
        number.files = None;
        if !is_made && cgroup.is_exec_cgroup_populated(number.get())? {
            number.afterwards = Afterwards::InUse;
            continue;
        }
        let made = if is_made {
            cgroup.reuse_exec_cgroup(number.get())
        } else {
            cgroup.make_exec_cgroup(number.get())
        };
        match made {
            Err(CgroupError::Remove { dir, errno }) if tries < TRIES => {
                tracing::warn!(container = %container.id(), dir = %dir.display(), %errno, "the cgroup of an earlier command is still in use");
                number.afterwards = Afterwards::InUse;
                tries += 1;
            }
            made => return Ok((number, made?)),
        }
    }
}

/// An exec cgroup in use, with what a process needs to be started in it.
pub(in crate::ops) type Joinable = (ExecGroup, CgroupJoin, Vec<OwnedFd>);

impl ExecGroup {
    /// Takes an exec cgroup that exists and is empty, without work that waits for others. None when
    /// [`take`](Self::take) must make or empty one.
    pub(in crate::ops) fn take_idle(
        service: &ServiceState,
        container: &Arc<Container>,
        pod: &Pod,
    ) -> Result<Option<Joinable>, Cause> {
        let (mut number, is_made) = Number::lowest_free(container);
        if !is_made {
            return Ok(None);
        }
        number.afterwards = Afterwards::Free;
        let (cgroup, permit) = match number.files.take() {
            Some(OpenFiles { cgroup, permit }) => (cgroup, Some(permit)),
            None => {
                let path = cgroup_path(pod, container.id())?;
                let Some(cgroup) = service.cgroups.open_exec_cgroup(&path, number.get())? else {
                    return Ok(None);
                };
                let permit =
                    exec_cgroups::is_kept_open(number.get()).then(|| service.stats.descriptors.acquire());
                (cgroup, permit.flatten())
            }
        };
        let Some((exec, join_fds)) = cgroup.take_if_idle()? else { return Ok(None) };
        number.files = permit.map(|permit| OpenFiles { cgroup, permit });
        Self { cgroup: exec, number }.with(join_fds).map(Some)
    }

    /// Takes an exec cgroup of the container.
    pub(in crate::ops) fn take(
        service: &ServiceState,
        container: &Arc<Container>,
        pod: &Pod,
    ) -> Result<Joinable, Cause> {
        let cgroup = service.cgroups.open(&cgroup_path(pod, container.id())?)?;
        let (mut number, cgroup) = free(container, &cgroup)?;
        number.afterwards = Afterwards::Free;
        let join_fds = cgroup.join()?;
        Self { cgroup, number }.with(join_fds)
    }

    fn with(self, join_fds: JoinFds) -> Result<Joinable, Cause> {
        let mut fds = Vec::new();
        let join = compile::compile_join(join_fds, &mut fds)?;
        Ok((self, join, fds))
    }

    /// Whether processes live in it; true if that cannot be read.
    pub(in crate::ops) fn is_populated(&self) -> bool {
        let populated = match &self.number.files {
            Some(files) => files.cgroup.is_populated(),
            None => self.cgroup.is_populated(),
        };
        populated.unwrap_or(true)
    }

    /// Never uses it again: a monitor that has lost its connection may kill its processes at any time.
    pub(in crate::ops) fn give_up(mut self) {
        self.number.afterwards = Afterwards::InUse;
    }

    /// Kills all processes in it, and removes it in the background: a server that ends then leaves none alive. Its
    /// number is free again when they are gone. Does nothing after another start of the container, whose commands have
    /// a new cgroup of this name.
    pub(in crate::ops) fn kill(self) {
        let Self { cgroup, mut number } = self;
        if !number.container.exec_cgroups.is_current(number.number) {
            return;
        }
        let killed = match number.files.take() {
            Some(files) => Ok(Some(files.cgroup.kill())),
            None => cgroup.kill(),
        };
        number.afterwards = Afterwards::Forgotten;
        tokio::task::spawn_blocking(move || {
            let mut number = number;
            let removed = killed.and_then(|killed| killed.map_or(Ok(()), KilledExecCgroup::remove));
            if let Err(error) = removed {
                tracing::warn!(container = %number.container.id(), %error, "cannot kill all processes of a command");
                number.afterwards = Afterwards::InUse;
            }
        });
    }
}
