//! `crisp oci ps`: lists the processes of a container.

use std::path::Path;

use crisp_executor::cgroup::{CgroupError, Cgroups};
use crisp_sandbox::arguments::first_arguments;

use super::id::OciId;
use super::state_folder::StateFolder;
use crate::print;
use crate::table::Table;

/// Bytes of one command that are shown.
const MAX_COMMAND: u64 = 4096;

/// List the processes of a container by their ids on the host
#[derive(Debug, clap::Args)]
pub struct Ps {
    /// Output format
    #[arg(long, short, value_enum, default_value = "table")]
    format: Format,
    id: OciId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Table,
    Json,
}

impl Ps {
    pub fn run(self, root: &Path) -> anyhow::Result<()> {
        let record = StateFolder::open(root, &self.id)?.whole_record(&self.id)?;
        let mut pids = match Cgroups::detect()?.open(&record.cgroup) {
            Ok(cgroup) => cgroup.pids()?,
            Err(CgroupError::NotFound { .. }) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        pids.sort_unstable();
        match self.format {
            Format::Json => print::line(serde_json::json!(pids))?,
            Format::Table => {
                let mut table = Table::new(&["PID", "COMMAND"]);
                pids.iter().for_each(|pid| table.row(vec![pid.to_string(), command(*pid)]));
                table.write(&mut std::io::stdout().lock())?;
            }
        }
        Ok(())
    }
}

/// Empty for a process that has just ended.
fn command(pid: i32) -> String {
    let line = first_arguments(pid, MAX_COMMAND);
    let words = line.split(|&byte| byte == 0).map(String::from_utf8_lossy);
    words.collect::<Vec<_>>().join(" ").trim_end().to_owned()
}
