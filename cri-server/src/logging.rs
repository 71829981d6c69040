//! The log of the server: as text, as JSON, or to journald.

use std::io::IsTerminal as _;
use std::path::Path;

use anyhow::Context as _;
use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::{LogFormat, Settings};

/// What is logged; it can be changed while the log is written.
#[derive(Clone)]
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

impl LogLevel {
    /// Changes it.
    ///
    /// # Errors
    /// `level` is no filter.
    pub fn set(&self, level: &str) -> anyhow::Result<()> {
        self.0.reload(level.parse::<EnvFilter>()?)?;
        Ok(())
    }
}

/// Starts to log.
///
/// # Errors
/// journald was asked for by name and does not answer.
pub fn start(settings: &Settings) -> anyhow::Result<LogLevel> {
    let (filter, level) = reload::Layer::new(settings.log_level.value.parse::<EnvFilter>()?);
    tracing_subscriber::registry().with(filter).with(layer(settings.log_format.value)?).init();
    Ok(LogLevel(level))
}

fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(
    format: LogFormat,
) -> anyhow::Result<Box<dyn Layer<S> + Send + Sync>> {
    // What cannot be written is not written to standard error as well, with a panic when that is closed.
    let stderr = fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    Ok(match format {
        LogFormat::Journald => journald().context("log-format journald: no journald answers")?.boxed(),
        LogFormat::Auto if stderr_is_the_journal() => match journald() {
            Ok(journald) => journald.boxed(),
            Err(_) => stderr.with_ansi(false).boxed(),
        },
        LogFormat::Json => stderr.json().flatten_event(true).boxed(),
        LogFormat::Auto | LogFormat::Text => stderr.with_ansi(std::io::stderr().is_terminal()).boxed(),
    })
}

/// Its fields are those of the events, in capitals, without a prefix.
fn journald() -> std::io::Result<tracing_journald::Layer> {
    Ok(tracing_journald::layer()?.with_field_prefix(None).with_syslog_identifier("crisp".to_owned()))
}

/// systemd names the device and inode of a standard error that it collects: systemd.exec(5), `JOURNAL_STREAM`.
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let stderr = rustix::fs::fstat(rustix::stdio::stderr());
    stderr.is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
        && Path::new("/run/systemd/journal/socket").exists()
}
