//! `crisp config`.

use std::io::Write as _;
use std::process::ExitCode;

use crate::config::{Settings, print};

/// Prints the settings in force, as a file that would give the same.
pub fn run(settings: &Settings) -> anyhow::Result<ExitCode> {
    std::io::stdout().write_all(print(settings).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
