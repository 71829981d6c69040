//! `crisp debug bundle`: collects material for finding a cause elsewhere in one archive, without specs and
//! logins.
//!
//! ```text
//!   settings, doctor, the server's lists, journal, metrics, log, kernel ─> members.rs ─> redact.rs ─> archive.rs
//! ```
//!
//! Sources that may hold a secret are not read at all: specs (environment, arguments), logins, hosts.toml
//! files, CNI configurations. [`redact`] removes annotations, and each value whose name is that of a secret,
//! from the rest; and from texts what has the form of a secret.

mod archive;
mod log_level;
mod members;
mod redact;
mod server_log;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use self::archive::Archive;
use self::log_level::LogLevelCommand;
use crate::config::{NetworkFlag, RawSettings, Settings};
use crate::print;
use crate::time;

/// Find the cause of a problem: collect material, set the level of the log
#[derive(Debug, clap::Args)]
pub struct Debug {
    #[command(subcommand)]
    command: DebugCommand,
}

#[derive(Debug, Subcommand)]
enum DebugCommand {
    Bundle(Box<Bundle>),
    LogLevel(LogLevelCommand),
}

/// Write one archive (tar.gz) with material for finding the cause of a problem elsewhere
///
/// It has the version, the settings, `crisp info`, the report of `crisp doctor`, pods, containers, images,
/// operations under way, the journal of events, the metrics page, the end of the server's log where journald
/// keeps it, and information about the kernel. It does not have environment or arguments of containers,
/// annotations, logins, hosts.toml files or CNI configurations. It does have names, labels, addresses and
/// paths, and the last output of programs that failed, without what has the form of a secret: passwords in
/// URLs, HTTP credentials, values of variables such as DB_PASSWORD, private keys. It also works without a server, with less in it.
#[derive(Debug, clap::Args)]
struct Bundle {
    /// File to write; it must not exist [default: crisp-debug-TIME.tar.gz]
    file: Option<PathBuf>,
    #[command(flatten)]
    settings: RawSettings,
    #[command(flatten)]
    network: NetworkFlag,
}

impl Debug {
    /// The settings of the server that the bundle is about.
    pub fn server_settings(&mut self) -> RawSettings {
        match &mut self.command {
            DebugCommand::Bundle(bundle) => bundle.settings.with_network(bundle.network),
            DebugCommand::LogLevel(_) => RawSettings::default(),
        }
    }

    pub fn run(self, settings: &Settings) -> anyhow::Result<ExitCode> {
        match self.command {
            DebugCommand::Bundle(bundle) => bundle.run(settings),
            DebugCommand::LogLevel(level) => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(level.run(settings))
            }
        }
    }
}

impl Bundle {
    fn run(self, settings: &Settings) -> anyhow::Result<ExitCode> {
        let file = self.file.unwrap_or_else(default_file);
        let mut archive = Archive::create(&file)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let collected = runtime.block_on(members::collect(settings, &mut archive));
        // A thread that hangs in a dead file system does not keep the command from ending.
        runtime.shutdown_background();
        collected?;
        archive.finish()?;
        print::line(file.display())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// `crisp-debug-20260131T120000.tar.gz`.
fn default_file() -> PathBuf {
    let now = time::shown(crisp_operation::clock::now());
    let digits: String = now.chars().take(19).filter(|c| c.is_ascii_alphanumeric()).collect();
    format!("crisp-debug-{digits}.tar.gz").into()
}
