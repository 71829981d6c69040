//! `crisp oci state`: prints the state of a container as the runtime spec defines it.

use std::path::Path;

use crisp_executor::hook;
use serde_json::{Value, json};

use super::id::OciId;
use super::record::Record;
use super::state_folder::StateFolder;
use super::status::{self, Status};
use crate::print;
use crate::time;

/// Print the state of a container as JSON
#[derive(Debug, clap::Args)]
pub struct State {
    id: OciId,
}

impl State {
    pub fn run(self, root: &Path) -> anyhow::Result<()> {
        let folder = StateFolder::open(root, &self.id)?;
        let record = folder.whole_record(&self.id)?;
        let status = status::now(&folder, Some(&record))?.status;
        print::line(format_args!("{:#}", of_runc(&record, status)))?;
        Ok(())
    }
}

/// The members of the runtime spec, which hooks get.
pub fn of_spec(record: &Record, status: Status) -> Value {
    // The runtime spec has no status `paused`, but lets runtimes define more.
    for_hooks(record).value(status.as_str(), pid(record, status))
}

/// The members that stay the same.
pub fn for_hooks(record: &Record) -> hook::State {
    hook::State {
        oci_version: record.oci_version.clone(),
        id: record.id.to_string(),
        bundle: record.bundle.clone(),
        annotations: record.annotations.clone(),
    }
}

/// The same with the members that runc adds.
pub fn of_runc(record: &Record, status: Status) -> Value {
    let mut state = of_spec(record, status);
    state["rootfs"] = json!(record.rootfs);
    state["created"] = json!(time::shown(record.created));
    state["owner"] = json!("");
    state
}

/// 0 when there is no process.
pub fn pid(record: &Record, status: Status) -> i32 {
    match status {
        Status::Stopped => 0,
        _ => record.init.map_or(0, |init| init.pid),
    }
}
