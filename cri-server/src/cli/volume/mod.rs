//! `crisp volume`: manages named volumes on this machine, which are folders below the server's root.
//!
//! ```text
//!   <root>/standalone/volumes/NAME     in a pod: a hostPath, or a PersistentVolumeClaim of a manifest
//!   mod.rs: the commands   volumes.rs: the volumes   users.rs: what uses them
//! ```

mod usage;
mod users;
mod volumes;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::bail;
use serde_json::{Value, json};

pub use self::usage::usage;
use self::volumes::{Pruned, Volumes};
use super::each::each;
use super::filter::Filters;
use super::listing::{Format, RowFormat};
use super::template::Template;
use super::{Client, json};
use crate::print;
use crate::run::image::variables;
use crate::table::Table;

const FILTERS: [&str; 4] = ["name", "driver", "label", "dangling"];

/// Make, list and remove volumes on this machine
///
/// A volume is a folder that outlives the containers that mount it. A volume that a container uses, running
/// or not, is not removed; nor is one of a pod of `crisp run -d` or `crisp up`.
#[derive(Debug, clap::Args)]
pub struct Volume {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Create(Create),
    Ls(Ls),
    Inspect(Inspect),
    /// Remove volumes and their content
    Rm {
        /// Do not fail for a volume that does not exist; one in use is not removed
        #[arg(long, short)]
        force: bool,
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove all volumes that no container uses
    Prune {
        /// Do not ask for confirmation
        #[arg(long, short)]
        force: bool,
        /// No effect: volumes with a name are always included
        #[arg(long, short)]
        all: bool,
        /// Only volumes with a label, `label=KEY` or `label=KEY=VALUE`
        #[arg(long, value_name = "KEY=VALUE")]
        filter: Vec<String>,
    },
}

/// Make a volume; success when it already exists
#[derive(Debug, clap::Args)]
struct Create {
    /// Lower-case letters, digits, '-' and '.' [default: a random one]
    name: Option<String>,
    /// Label, as KEY=VALUE; a volume that already exists keeps those it has
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Driver: only `local` is supported
    #[arg(long, short, value_parser = ["local"], default_value = "local", hide_default_value = true)]
    driver: String,
}

/// List volumes
#[derive(Debug, clap::Args)]
struct Ls {
    /// Print only names
    #[arg(long, short)]
    quiet: bool,
    /// Only volumes with a name, `name=TEXT`, a label, `label=KEY` or `label=KEY=VALUE`, of a driver, `driver=local`,
    /// or without containers, `dangling=true`
    #[arg(long, short, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// `table`, `json`, or a template with Name, Driver, Mountpoint, CreatedAt, Labels, Containers
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "output")]
    format: Option<String>,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// Show volumes and the containers that use them, as JSON
#[derive(Debug, clap::Args)]
struct Inspect {
    /// A template, as '{{.Mountpoint}}'
    #[arg(long, short, value_name = "TEMPLATE")]
    format: Option<String>,
    #[arg(required = true)]
    names: Vec<String>,
}

impl Volume {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let volumes = Volumes::load(&mut client).await?;
        match self.command {
            Command::Create(create) => {
                let labels = variables::pairs("--label", &[], &create.labels)?;
                print::line(volumes.create(create.name, &labels)?)?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Ls(ls) => ls.run(&volumes),
            Command::Inspect(inspect) => inspect.run(&volumes),
            Command::Rm { force, names } => {
                let remove = |name: &str| {
                    if force { volumes.remove_if_present(name) } else { volumes.remove(name) }
                };
                Ok(each(&names, async |name| remove(name)).await)
            }
            Command::Prune { force, all: _, filter } => {
                let filters = Filters::parse(&filter, &["label"])?;
                if !force {
                    bail!("this removes all volumes that no container has: say --force");
                }
                Ok(volumes.prune(&filters)?.report())
            }
        }
    }
}

impl Ls {
    fn run(self, volumes: &Volumes) -> anyhow::Result<ExitCode> {
        let format = RowFormat::parse(self.format.as_deref())?;
        let filters = Filters::parse(&self.filter, &FILTERS)?;
        filters.check("dangling", &["true", "false"])?;
        let mut rows = Vec::new();
        for name in volumes.names()? {
            if volumes.matches(&name, &filters)? {
                rows.push(volumes.describe(&name)?);
            }
        }
        if self.quiet {
            rows.iter().try_for_each(|row| print::line(row["Name"].as_str().unwrap_or_default()))?;
        } else if !self.output.print(|| Ok(json!({ "volumes": rows })))? {
            format.print(&rows, || table(&rows))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Inspect {
    fn run(self, volumes: &Volumes) -> anyhow::Result<ExitCode> {
        let template = self.format.as_deref().map(Template::parse).transpose()?;
        for name in &self.names {
            let value = volumes.describe(name)?;
            match &template {
                Some(template) => writeln!(std::io::stdout(), "{}", template.render(&value)?)?,
                None => json::print(&value)?,
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Removes the volumes that neither a container nor a supervised pod uses.
///
/// # Errors
/// Not all users are known: then nothing is removed.
pub async fn prune(client: &mut Client) -> anyhow::Result<Pruned> {
    Volumes::load(client).await?.prune(&Filters::default())
}

fn table(rows: &[Value]) -> Table {
    let mut table = Table::new(&["DRIVER", "VOLUME NAME", "CONTAINERS"]);
    for row in rows {
        let users = row["Containers"].as_array().map_or(0, Vec::len);
        let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
        table.row(vec![text("Driver"), text("Name"), users.to_string()]);
    }
    table
}
