//! `crisp doctor`: checks whether the machine is fit for pods, and lists the server's things on it with their
//! owners.
//!
//! ```text
//!   checks/    kernel, cgroups, folders, clock, CNI, mirrors: of this machine; conditions: the server's
//!   things.rs  the inventory of the server that runs: each thing with its owner; what has none is an orphan
//! ```
//!
//! Without a server only the machine is checked: only the server knows the owners, and a new server looks for
//! things that the one before it has left.

mod checks;
mod things;

use std::io::Write as _;
use std::process::ExitCode;

use serde_json::{Value, json};

use self::checks::{Check, Outcome};
use self::things::Things;
use super::Client;
use super::endpoint;
use super::listing::Format;
use crate::config::{NetworkFlag, RawSettings, Settings};
use crate::table::without_control;

/// Check the machine, and list everything that the server has on it, each thing with its owner
///
/// Checks kernel, cgroups, folders, clock, CNI configuration and mirrors; then lists every process, network
/// namespace, mount, cgroup, interface, address, packet rule, host port, folder and layer of the running
/// server with the pod, container or image that owns it. A thing without an owner is an orphan. The exit code
/// is 1 when a check fails or there is an orphan.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  crisp doctor -q              # only what is wrong, and the counts
  crisp doctor --fix           # removes orphans without data and processes, and says each
  crisp doctor --format json")]
pub struct Doctor {
    /// Remove orphans that hold neither data nor processes, and print each. Other orphans, and things that
    /// may belong to another server, are left to you
    #[arg(long)]
    fix: bool,
    /// Show only problems
    #[arg(long, short)]
    quiet: bool,
    /// Output format
    #[arg(long, short, visible_alias = "format", value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    pub settings: RawSettings,
    #[command(flatten)]
    pub network: NetworkFlag,
}

/// All findings.
pub struct Report {
    checks: Vec<Check>,
    /// None when no server answers.
    things: Option<Things>,
}

impl Doctor {
    pub fn run(self, settings: &Settings) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let report = runtime.block_on(Report::make(settings, self.fix))?;
        // A thread that hangs in a dead file system does not keep the command from ending.
        runtime.shutdown_background();
        if !self.output.print(|| report.document())? {
            report.print(self.quiet)?;
        }
        Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Report {
    /// Checks the machine, and asks the server if one runs.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn make(settings: &Settings, fix: bool) -> anyhow::Result<Self> {
        let mut checks = checks::of_machine(settings).await;
        let address = endpoint::choose(settings)?;
        let things = match Client::connect(&address).await {
            Ok(mut client) => {
                checks.extend(checks::of_server(&mut client).await);
                Some(Things::load(&mut client, fix).await?)
            }
            Err(error) => {
                let text = format!("{error:#}; what is whose is not known without it");
                checks.push(Check::warning("server", text));
                None
            }
        };
        Ok(Self { checks, things })
    }

    /// Whether no check has failed and no orphan is left.
    fn is_good(&self) -> bool {
        let has_failed = self.checks.iter().any(|check| check.outcome == Outcome::Failed);
        !has_failed && self.things.as_ref().is_none_or(|things| things.orphans_left() == 0)
    }

    /// # Errors
    /// A message that is not of the contract.
    pub fn document(&self) -> anyhow::Result<Value> {
        Ok(json!({
            "good": self.is_good(),
            "checks": self.checks.iter().map(Check::document).collect::<Vec<_>>(),
            "things": self.things.as_ref().map(Things::document).transpose()?,
            "summary": self.things.as_ref().map(|things| things.summary().document()),
        }))
    }

    fn print(&self, is_quiet: bool) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        for check in self.checks.iter().filter(|check| !is_quiet || check.outcome != Outcome::Good) {
            writeln!(out, "{}", without_control(&check.to_string()))?;
        }
        if let Some(things) = &self.things {
            if !is_quiet {
                writeln!(out)?;
                things.table().write(&mut out)?;
                writeln!(out)?;
            }
            for line in things.findings() {
                writeln!(out, "{}", without_control(&line))?;
            }
            writeln!(out, "{}", things.summary())?;
        }
        Ok(())
    }
}
