//! SIGHUP: reads the configuration again. Settings that can change at run time do; the others are logged.
//!
//! hosts.toml files, CNI configurations, logins and the certificates of streams are read on use or when they
//! change, so they need no signal.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use crisp_runtime_service::RuntimeService;
use tokio::signal::unix::Signal;
use tracing::{error, info, warn};

use super::notify;
use super::open::live;
use crate::config::{ConfigError, RawSettings, Settings, differences, present_file};
use crate::logging::LogLevel;

/// Time limit: a disk that does not answer must not block the signal forever.
const READ: Duration = Duration::from_secs(30);

/// The flags of the command line, with which the files are read again.
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
    /// Reloads at each signal, forever.
    pub async fn at(mut self, mut hangups: Signal, runtime: RuntimeService) {
        while hangups.recv().await.is_some() {
            notify::reloading();
            if let Err(error) = self.reload(&runtime).await {
                error!(error = format!("{error:#}"), "SIGHUP: the settings in force stay");
            }
            notify::ready();
        }
    }

    async fn reload(&mut self, runtime: &RuntimeService) -> anyhow::Result<()> {
        let ConfigOrigin { flags, config } = self.origin.clone();
        let read = tokio::task::spawn_blocking(move || {
            let new = Settings::resolve(flags, config.as_deref())?;
            Ok::<_, ConfigError>((new, present_file(config)))
        });
        let (new, config) = tokio::time::timeout(READ, read)
            .await
            .context("the configuration cannot be read in time")???;
        self.origin.config = config;
        // A request may have set another one.
        if !self.log_level.is(&new.log_level.value) {
            self.log_level.set(&new.log_level.value)?;
        }
        runtime.reconfigure(live(&new));
        let before = self.in_force.clone();
        self.in_force.log_level = new.log_level.clone();
        self.in_force.exec_grace = new.exec_grace.clone();
        self.in_force.container_log_max_size = new.container_log_max_size.clone();
        self.in_force.container_log_max_files = new.container_log_max_files.clone();
        let (changed, later) = (differences(&before, &self.in_force), differences(&self.in_force, &new));
        if !changed.is_empty() || later.is_empty() {
            let changed = changed.join(", ");
            info!(changed, "SIGHUP: the configuration is in force");
        }
        if !later.is_empty() {
            let settings = later.join(", ");
            warn!(settings, "SIGHUP: these settings wait for a restart of the server; pods run on over it");
        }
        Ok(())
    }
}
