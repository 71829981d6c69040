//! SIGHUP: the configuration is read again. What can change without a restart does, the rest is named.
//!
//! hosts.toml files, CNI configurations, logins and the certificates of streams are read anew when they are
//! used or when they change: they need no signal.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::Signal;
use tracing::{error, info, warn};

use super::notify;
use crate::config::{RawSettings, Settings, differences};
use crate::logging::LogLevel;

/// A disk that does not answer must not take the signal away for ever.
const READ: Duration = Duration::from_secs(30);

/// The command line's part of the settings, with which the files are read again.
#[derive(Debug, Clone)]
pub struct ConfigOrigin {
    pub flags: RawSettings,
    pub config: Option<PathBuf>,
}

/// Reloads the configuration.
pub struct Reload {
    pub origin: ConfigOrigin,
    pub in_force: Settings,
    pub log_level: LogLevel,
}

impl Reload {
    /// Reloads at each signal, without an end.
    pub async fn at(mut self, mut hangups: Signal) {
        while hangups.recv().await.is_some() {
            notify::reloading();
            if let Err(error) = self.reload().await {
                error!(error = format!("{error:#}"), "SIGHUP: the settings in force stay");
            }
            notify::ready();
        }
    }

    async fn reload(&mut self) -> anyhow::Result<()> {
        let ConfigOrigin { flags, config } = self.origin.clone();
        let read = tokio::task::spawn_blocking(move || Settings::resolve(flags, config.as_deref()));
        let new = tokio::time::timeout(READ, read)
            .await
            .context("the configuration cannot be read in time")???;
        if new.log_level != self.in_force.log_level {
            self.log_level.set(&new.log_level.value)?;
            self.in_force.log_level = new.log_level.clone();
        }
        let later = differences(&self.in_force, &new);
        if later.is_empty() {
            info!(log_level = new.log_level.value, "SIGHUP: the configuration is in force");
        } else {
            let settings = later.join(", ");
            warn!(settings, "SIGHUP: these settings wait for a restart of the server; pods run on over it");
        }
        Ok(())
    }
}
