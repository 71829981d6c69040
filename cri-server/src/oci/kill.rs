//! `crisp oci kill`: sends a signal to a container.

use std::path::Path;

use anyhow::Context as _;
use crisp_executor::cgroup::Cgroups;
use crisp_executor::pidfd_send_signal;
use crisp_runtime_service::container::signal::Signal;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::id::OciId;
use super::record::Record;
use super::state_folder::StateFolder;
use super::status::{self, Now};

const SIGKILL: i32 = 9;

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
        let not_running = || format!("cannot kill container {}: container not running", self.id);
        let init = init.with_context(not_running)?;
        match pidfd_send_signal(&init, signal) {
            Err(Errno::SRCH) => anyhow::bail!(not_running()),
            result => result.with_context(|| format!("send signal {signal} to container {}", self.id)),
        }
    }
}

/// Sends the signal to all processes in the cgroup, and returns their number.
fn signal_all(record: &Record, signal: i32) -> anyhow::Result<usize> {
    let Ok(cgroup) = Cgroups::detect()?.open(&record.cgroup) else { return Ok(0) };
    if signal == SIGKILL {
        let count = cgroup.pids()?.len();
        cgroup.kill_nowait()?;
        return Ok(count);
    }
    let mut sent = 0;
    for pid in cgroup.pids()? {
        let process = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        // A process that has ended meanwhile needs no signal.
        sent += usize::from(process.is_some_and(|process| pidfd_send_signal(&process, signal).is_ok()));
    }
    Ok(sent)
}
