//! `crisp config`.

use std::io::Write as _;
use std::process::ExitCode;

use crate::config::{NetworkFlag, RawSettings, Settings, print};

/// Print the settings in force and the source of each
#[derive(Debug, clap::Args)]
pub struct Config {
    #[command(flatten)]
    pub settings: RawSettings,
    #[command(flatten)]
    pub network: NetworkFlag,
}

/// Prints the settings in force, as a file with the same effect.
pub fn run(settings: &Settings) -> anyhow::Result<ExitCode> {
    std::io::stdout().write_all(print(settings).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
