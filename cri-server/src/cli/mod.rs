//! The commands that speak gRPC to a running server, one file each.
//!
//! ```text
//!  ps, pods, logs, ... --> Client (both services on --listen) --> names.rs: names, ids and prefixes to ids
//!                      <-- table (for people) or json (for programs)
//! ```

mod client;
mod json;
mod names;

pub mod config;
pub mod exec;
pub mod images;
pub mod info;
pub mod inspect;
pub mod logs;
pub mod pods;
pub mod ps;
pub mod pull;
pub mod resolve;
pub mod rm;
pub mod rmi;
pub mod stats;
pub mod stop;

use std::process::ExitCode;

use clap::ValueEnum;

use crate::args::Command;
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

/// Runs a command that talks to a server.
pub fn run(command: Command, settings: &Settings) -> anyhow::Result<ExitCode> {
    // One thread: these commands wait, they do not compute.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if let Command::Resolve(resolve) = command {
            return resolve.run(settings);
        }
        let client = Client::connect(&settings.listen.value).await?;
        match command {
            Command::Ps(ps) => ps.run(client).await,
            Command::Pods(pods) => pods.run(client).await,
            Command::Logs(logs) => logs.run(client).await,
            Command::Exec(exec) => exec.run(client).await,
            Command::Stop(stop) => stop.run(client).await,
            Command::Rm(rm) => rm.run(client).await,
            Command::Pull(pull) => pull.run(client).await,
            Command::Images(images) => images.run(client).await,
            Command::Rmi(rmi) => rmi.run(client).await,
            Command::Inspect(inspect) => inspect.run(client).await,
            Command::Stats(stats) => stats.run(client).await,
            Command::Info(info) => info.run(client).await,
            Command::Serve | Command::Run(_) | Command::Config | Command::Resolve(_) => {
                anyhow::bail!("this command needs no server")
            }
        }
    })
}
