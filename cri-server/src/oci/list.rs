//! `crisp oci list`: the containers of a `--root`.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;

use super::id::OciId;
use super::record::Record;
use super::state;
use super::state_folder::StateFolder;
use super::status::{self, Status};
use crate::print;
use crate::table::Table;
use crate::time;

/// List containers
#[derive(Debug, clap::Args)]
pub struct List {
    /// Output format
    #[arg(long, short, value_enum, default_value = "table")]
    format: Format,
    /// Print only ids
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Table,
    Json,
}

impl List {
    pub fn run(self, root: &Path) -> anyhow::Result<()> {
        let mut found = Vec::new();
        for id in ids(root)? {
            found.extend(load(root, &id).map(|(record, status)| (id, record, status)));
        }
        if self.quiet {
            found.iter().try_for_each(|(id, ..)| print::line(id))?;
            return Ok(());
        }
        match self.format {
            Format::Json => {
                let rows = found
                    .iter()
                    .filter_map(|(_, record, status)| Some(state::of_runc(record.as_ref()?, *status)));
                print::line(Value::Array(rows.collect()))?;
                Ok(())
            }
            Format::Table => Ok(table(&found).write(&mut std::io::stdout().lock())?),
        }
    }
}

fn ids(root: &Path) -> anyhow::Result<Vec<OciId>> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("read --root {}", root.display()))?,
    };
    let names = entries.flatten().filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name());
    let mut ids: Vec<OciId> = names.filter_map(|name| name.to_str()?.parse().ok()).collect();
    ids.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    Ok(ids)
}

/// None when it has just been deleted. A container whose record cannot be read is listed without it.
fn load(root: &Path, id: &OciId) -> Option<(Option<Record>, Status)> {
    let folder = StateFolder::open(root, id).ok()?;
    let record = folder.record().ok().flatten();
    let status = status::now(&folder, record.as_ref()).map_or(Status::Creating, |now| now.status);
    Some((record, status))
}

fn table(found: &[(OciId, Option<Record>, Status)]) -> Table {
    let mut table = Table::new(&["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    for (id, record, status) in found {
        let shown = |show: &dyn Fn(&Record) -> String| record.as_ref().map_or_else(|| "-".to_owned(), show);
        table.row(vec![
            id.to_string(),
            shown(&|record| state::pid(record, *status).to_string()),
            status.to_string(),
            shown(&|record| record.bundle.display().to_string()),
            shown(&|record| time::shown(record.created)),
            "root".to_owned(),
        ]);
    }
    table
}
