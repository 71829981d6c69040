//! `crisp oci kill`: sends a signal to a container.

use std::collections::HashSet;
use std::path::Path;

use anyhow::Context as _;
use crisp_executor::cgroup::{Cgroup, Cgroups};
use crisp_executor::pidfd_send_signal;
use crisp_runtime_service::container::signal::Signal;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::id::OciId;
use super::record::Record;
use super::state_folder::StateFolder;
use super::status::{self, Now};

const SIGKILL: i32 = 9;
/// Processes that are open at once: a process may have 1024 descriptors by default.
const AT_ONCE: usize = 256;

/// Send a signal to the first process of a container
#[derive(Debug, clap::Args)]
pub struct Kill {
    /// Send it to all its processes
    #[arg(long, short)]
    all: bool,
    id: OciId,
    /// Signal, by name or number
    #[arg(default_value = "TERM")]
    signal: String,
}

impl Kill {
    pub fn run(self, root: &Path) -> anyhow::Result<()> {
        let signal = Signal::parse(&self.signal)?.number();
        let folder = StateFolder::open(root, &self.id)?;
        let record = folder.whole_record(&self.id)?;
        let Now { init, .. } = status::now(&folder, Some(&record))?;
        // Without its own PID namespace, the other processes do not end with the first one.
        let whole = self.all || signal == SIGKILL && !record.own_pid_namespace;
        // With its own PID namespace all have ended: processes in its cgroup are not the container's then.
        let has_own = init.is_some() || !record.own_pid_namespace;
        if whole && has_own && signal_all(&record, signal)? > 0 {
            return Ok(());
        }
        let sent = init.map_or(Err(Errno::SRCH), |init| pidfd_send_signal(&init, signal));
        match sent {
            // With --all callers make sure that no process is left, so there may be none.
            Err(Errno::SRCH) if self.all => return Ok(()),
            Err(Errno::SRCH) => anyhow::bail!("cannot kill container {}: container not running", self.id),
            sent => sent.with_context(|| format!("send signal {signal} to container {}", self.id))?,
        }
        if signal == SIGKILL {
            thaw(&record);
        }
        Ok(())
    }
}

/// Lets killed processes of a paused container end: a v1 freezer keeps them. Only for a container that runs: others may
/// have its cgroup later.
pub fn thaw(record: &Record) {
    // The kill has been sent: a cgroup that cannot be thawed shows in the wait for the end.
    let _ = Cgroups::detect().and_then(|cgroups| cgroups.open(&record.cgroup)?.thaw());
}

/// Sends the signal to all processes in the cgroup, and returns their number.
fn signal_all(record: &Record, signal: i32) -> anyhow::Result<usize> {
    let Ok(cgroup) = Cgroups::detect()?.open(&record.cgroup) else { return Ok(0) };
    if signal == SIGKILL {
        let count = cgroup.pids()?.len();
        cgroup.kill_nowait()?;
        return Ok(count);
    }
    // So that none forks between the listing and the signal. One that cannot be paused gets it nevertheless.
    let pause = !cgroup.is_frozen().unwrap_or(true) && cgroup.freeze().is_ok();
    let sent = signal_listed(&cgroup, signal);
    if pause {
        cgroup.thaw()?;
    }
    sent
}

fn signal_listed(cgroup: &Cgroup, signal: i32) -> anyhow::Result<usize> {
    let mut sent = 0;
    for some in cgroup.pids()?.chunks(AT_ONCE) {
        let opened: Vec<(i32, OwnedFd)> = some.iter().filter_map(|&pid| Some((pid, open(pid)?))).collect();
        // A number may have been reused meanwhile. If it is listed once more, its pidfd is of a process in the cgroup.
        let listed: HashSet<i32> = cgroup.pids()?.into_iter().collect();
        for (_, process) in opened.iter().filter(|(pid, _)| listed.contains(pid)) {
            // A process that has ended meanwhile needs no signal.
            sent += usize::from(pidfd_send_signal(process, signal).is_ok());
        }
    }
    Ok(sent)
}

fn open(pid: i32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}
