//! The commands that talk to a running server over gRPC, one file each.
//!
//! ```text
//!  endpoint.rs: which server --> Client (all services of one) --> names.rs: names, ids and prefixes to ids
//!  ps, pods, logs, ...       <-- listing.rs: table, JSON, YAML, or template.rs: a line for each row
//! ```

pub mod client;
mod command;
pub mod credentials;
mod detach_keys;
mod details;
mod each;
pub mod endpoint;
mod filter;
mod journal;
mod json;
mod listing;
pub mod names;
pub mod output;
mod output_file;
mod reconnect;
pub mod session;
mod signals;
mod targets;
mod template;
pub mod terminal;
#[cfg(test)]
mod tests_server;
mod yaml;

mod attach;
mod check;
mod commit;
pub mod completion;
pub mod config;
mod cp;
pub mod debug;
mod diff;
pub mod doctor;
mod events;
mod exec;
mod export;
mod history;
mod images;
mod info;
mod inspect;
mod inspect_document;
mod kill;
pub mod login;
mod logs;
pub mod management;
mod network;
mod network_create;
mod network_list;
mod pause;
mod pods;
mod port;
mod port_forward;
mod prune;
mod ps;
pub mod pull;
pub mod rename;
pub mod resolve;
mod restart;
mod rm;
mod rmi;
mod save;
mod standalone;
mod start;
mod stats;
mod stop;
mod stuck;
mod tag;
mod top;
mod update;
pub mod version;
mod volume;
mod wait;
mod why;

use crate::config::Settings;

pub use client::Client;
pub use command::ClientCommand;

/// Runs a command that needs a connection to a server.
///
/// # Errors
/// There is no server, or `command` fails.
pub fn connect<T, F: Future<Output = anyhow::Result<T>>>(
    settings: &Settings,
    command: impl FnOnce(Client) -> F,
) -> anyhow::Result<T> {
    let address = endpoint::choose(settings)?;
    // One thread is enough: these commands wait and do not compute.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { command(Client::connect(&address).await?).await })
}
