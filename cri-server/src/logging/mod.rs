//! The log of the server: as text, as JSON, or to journald.

mod queue;

use std::fs::File;
use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::Context as _;
use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use self::queue::{FlushAtEnd, LineQueue};
use crate::config::{LogFormat, Settings};

/// The running log. Dropping it writes the lines that wait, for a second at most.
pub struct Log {
    pub level: LogLevel,
    _flush: FlushAtEnd,
}

/// The filter of the log; it can be changed at run time.
#[derive(Clone)]
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

impl LogLevel {
    /// Changes the filter.
    ///
    /// # Errors
    /// `level` is not a valid filter.
    pub fn set(&self, level: &str) -> anyhow::Result<()> {
        self.0.reload(level.parse::<EnvFilter>()?)?;
        Ok(())
    }

    /// Whether the filter in force is `level`, perhaps written in another order.
    pub fn is(&self, level: &str) -> bool {
        level.parse::<EnvFilter>().is_ok_and(|level| level.to_string() == self.get())
    }

    /// The filter in force.
    pub fn get(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }
}

/// Starts logging.
///
/// # Errors
/// journald is set explicitly and does not answer.
pub fn start(settings: &Settings) -> anyhow::Result<Log> {
    let (filter, level) = reload::Layer::new(settings.log_level.value.parse::<EnvFilter>()?);
    let (stderr, flush) = queued_stderr().context("cannot start the log's thread")?;
    tracing_subscriber::registry().with(filter).with(layer(settings.log_format.value, stderr)?).init();
    Ok(Log { level: LogLevel(level), _flush: flush })
}

/// Without the lock of [`std::io::stderr`], which others of this program take.
fn queued_stderr() -> std::io::Result<(LineQueue, FlushAtEnd)> {
    LineQueue::start(File::from(std::io::stderr().as_fd().try_clone_to_owned()?))
}

fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(
    format: LogFormat,
    stderr: LineQueue,
) -> anyhow::Result<Box<dyn Layer<S> + Send + Sync>> {
    // An error of the log itself is not printed to standard error: that would panic when it is closed.
    let stderr = fmt::layer().with_writer(move || stderr.clone()).log_internal_errors(false);
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

/// The fields of the events keep their names, in capitals and without a prefix.
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
