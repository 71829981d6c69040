//! `crisp oci delete`: removes a container and its remains, at any point of its creation.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::bail;
use crisp_executor::cgroup::{Cgroup, CgroupError, Cgroups};
use crisp_executor::hook::Kind;
use rustix::process::{Signal, pidfd_send_signal};

use super::id::OciId;
use super::record::Record;
use super::runtime_log::RuntimeLog;
use super::state_folder::StateFolder;
use super::status::{self, Status};
use super::wait::is_readable_within;
use super::{hooks, kill, state};

/// Time limit for a killed process to end.
const END: Duration = Duration::from_secs(10);
/// Time limit for the process that has built a container's user namespace to leave the cgroup.
const BUILDER: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(5);

/// Delete a container that has stopped or was never started
#[derive(Debug, clap::Args)]
pub struct Delete {
    /// Kill it first if it runs; succeed if it does not exist
    #[arg(long, short)]
    force: bool,
    id: OciId,
}

impl Delete {
    pub fn run(self, root: &Path, log: &RuntimeLog) -> anyhow::Result<()> {
        let folder = match StateFolder::lock_if_present(root, &self.id)? {
            None if self.force => return Ok(()),
            None => bail!("container {} does not exist in {}", self.id, root.display()),
            Some(folder) => folder,
        };
        let record = match folder.record() {
            Err(error) if self.force => {
                log.warn(&format!("{error:#}: its folder is removed, its cgroup cannot be known"));
                None
            }
            record => record?,
        };
        let status = status::now(&folder, record.as_ref())?.status;
        if !self.force && !matches!(status, Status::Stopped | Status::Created) {
            bail!("cannot delete container {}: it is {status}: kill it first, or use --force", self.id);
        }
        delete(folder, record.as_ref(), log)
    }
}

/// Deletes a container and runs its poststop hooks.
///
/// # Errors
/// As [`destroy`].
pub fn delete(folder: StateFolder, record: Option<&Record>, log: &RuntimeLog) -> anyhow::Result<()> {
    let spec = folder.spec();
    destroy(folder, record)?;
    if let (Some(record), Ok(spec)) = (record, spec) {
        let state = state::of_spec(record, Status::Stopped).to_string();
        // The container is gone: by the spec, failures of these hooks are only logged.
        let failures = hooks::run_all(Kind::Poststop, &spec, &state);
        failures.iter().for_each(|failure| log.warn(&failure.to_string()));
    }
    Ok(())
}

/// Ends all processes of a container and removes its cgroup and folder. The folder is removed last, and only
/// when everything else is gone, so that the call can be repeated.
///
/// # Errors
/// Processes that cannot be killed; a cgroup or folder that cannot be removed.
pub fn destroy(folder: StateFolder, record: Option<&Record>) -> anyhow::Result<()> {
    if let Some(record) = record {
        kill_init(record)?;
        remove_cgroup(record)?;
    }
    folder.remove()
}

fn kill_init(record: &Record) -> anyhow::Result<()> {
    let Some(init) = record.init.and_then(super::init::Init::open) else { return Ok(()) };
    // Fails when the process has ended, which is fine.
    let _ = pidfd_send_signal(&init, Signal::KILL);
    kill::thaw(record);
    if !is_readable_within(&init, END)? {
        bail!("process {} of container {} does not end, though it was killed", pid(record), record.id);
    }
    Ok(())
}

fn pid(record: &Record) -> i32 {
    record.init.map_or(0, |init| init.pid)
}

fn remove_cgroup(record: &Record) -> anyhow::Result<()> {
    let cgroups = Cgroups::detect()?;
    // The container's own processes have ended with their PID namespace. Processes that are there now came
    // later: the path has been used again.
    let own_have_ended = record.own_pid_namespace && record.init.is_some();
    match cgroups.open(&record.cgroup) {
        Ok(cgroup) if own_have_ended => {
            if let Some(pid) = remaining(&cgroup)? {
                bail!(
                    "process {pid} in the cgroup {} is not of container {}: end it first",
                    record.cgroup,
                    record.id
                );
            }
        }
        Ok(cgroup) => cgroup.kill()?,
        Err(CgroupError::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(cgroups.remove(&record.cgroup)?)
}

/// A process that stays in the cgroup.
#[expect(clippy::disallowed_methods, reason = "this command runs nothing else meanwhile")]
fn remaining(cgroup: &Cgroup) -> Result<Option<i32>, CgroupError> {
    let begun = Instant::now();
    loop {
        let first = cgroup.pids()?.first().copied();
        if first.is_none() || begun.elapsed() >= BUILDER {
            return Ok(first);
        }
        std::thread::sleep(PAUSE);
    }
}
