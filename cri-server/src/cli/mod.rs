//! The commands that speak gRPC to a running server, one file each.
//!
//! ```text
//!  ps, pods, logs, ... --> Client (both services on --listen) --> names.rs: names, ids and prefixes to ids
//!                      <-- table (for people) or json (for programs)
//! ```

mod client;
mod json;
mod names;
mod session;
mod terminal;

pub mod attach;
pub mod check;
pub mod config;
pub mod cp;
pub mod exec;
pub mod images;
pub mod info;
pub mod inspect;
pub mod logs;
pub mod pods;
pub mod port_forward;
pub mod ps;
pub mod pull;
pub mod resolve;
pub mod rm;
pub mod rmi;
pub mod stats;
pub mod stop;

use std::process::ExitCode;

use clap::ValueEnum;

use crate::config::Settings;

pub use client::Client;

/// How to print a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// Columns, for people.
    #[default]
    Table,
    /// JSON, for programs.
    Json,
}

/// Runs a command that speaks to a server.
pub fn with_client<F: Future<Output = anyhow::Result<ExitCode>>>(
    settings: &Settings,
    command: impl FnOnce(Client) -> F,
) -> anyhow::Result<ExitCode> {
    // One thread: these commands wait, they do not compute.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { command(Client::connect(&settings.listen.value).await?).await })
}
