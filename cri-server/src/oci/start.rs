//! `crisp oci start`: opens the start gate of the container's process.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use crisp_executor::hook::Kind;
use crisp_executor::run::{Progress, Report, start_gate};
use rustix::fd::AsFd as _;
use rustix::io::Errno;

use super::id::OciId;
use super::init::Init;
use super::record::Record;
use super::runtime_log::RuntimeLog;
use super::state_folder::{GATE, StateFolder};
use super::status::{self, Now, Status};
use super::wait::is_readable_within;
use super::{hooks, state};

/// Time limit for the end of a process whose start has failed.
const END: Duration = Duration::from_secs(1);

/// Start the process of a created container
#[derive(Debug, clap::Args)]
pub struct Start {
    id: OciId,
}

impl Start {
    pub fn run(self, root: &Path, log: &RuntimeLog) -> anyhow::Result<()> {
        start(root, &self.id, log)
    }
}

/// Starts a container, and returns when its program runs.
///
/// # Errors
/// The container is not in the state `created`, or a stage failed, usually its exec.
pub fn start(root: &Path, id: &OciId, log: &RuntimeLog) -> anyhow::Result<()> {
    let folder = StateFolder::lock(root, id)?;
    let record = folder.whole_record(id)?;
    match status::now(&folder, Some(&record))?.status {
        Status::Created => {}
        Status::Running => bail!("cannot start container {id}: it is running already"),
        Status::Stopped => {
            bail!("cannot start container {id}: it has stopped; delete it and create it anew")
        }
        other => bail!("cannot start container {id}: it is {other}"),
    }
    let opened = match start_gate::open(folder.as_fd(), GATE) {
        Ok(report) => wait(&report).inspect_err(|_| wait_for_end(&record)),
        // An earlier start was killed between opening the gate and removing it.
        Err(Errno::CONNREFUSED) => Err(anyhow::anyhow!("cannot start container {id}: it is running already")),
        Err(errno) => return Err(errno).context("open the start gate"),
    };
    folder.remove_gate()?;
    opened?;
    let spec = folder.spec()?;
    if hooks::has(Kind::Poststart, &spec) {
        let state = state_for_hooks(&folder, &record)?;
        // A hook may pause or update the container, which takes the lock.
        drop(folder);
        // The container runs: by the spec, failures of these hooks are only logged.
        let failures = hooks::run_all(Kind::Poststart, &spec, &state);
        failures.iter().for_each(|failure| log.warn(&failure.to_string()));
    }
    Ok(())
}

fn wait(report: &Report) -> anyhow::Result<()> {
    loop {
        match report.wait().context("wait for the container's process")? {
            Progress::Executed => return Ok(()),
            Progress::Failed(error) => return Err(error.into()),
            _ => {}
        }
    }
}

/// Waits for the end of a process whose start has failed: then the container counts as stopped.
fn wait_for_end(record: &Record) {
    if let Some(init) = record.init.and_then(Init::open) {
        let _ = is_readable_within(&init, END);
    }
}

fn state_for_hooks(folder: &StateFolder, record: &Record) -> anyhow::Result<String> {
    let now: Now = status::now(folder, Some(record))?;
    Ok(state::of_spec(record, now.status).to_string())
}
