//! The log of the server: as text, as JSON, or to journald.

mod journal;
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

use self::journal::{JournalLayer, JournalSocket, SOCKET};
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
/// journald is set explicitly and is not there, or the thread of the log cannot be started.
pub fn start(settings: &Settings) -> anyhow::Result<Log> {
    let (filter, level) = reload::Layer::new(settings.log_level.value.parse::<EnvFilter>()?);
    let (layer, flush) = layer(settings.log_format.value)?;
    tracing_subscriber::registry().with(filter).with(layer).init();
    Ok(Log { level: LogLevel(level), _flush: flush })
}

/// Without the lock of [`std::io::stderr`], which others of this program take.
fn queued_stderr() -> std::io::Result<(LineQueue, FlushAtEnd)> {
    LineQueue::start(File::from(std::io::stderr().as_fd().try_clone_to_owned()?))
}

type BoxedLayer<S> = Box<dyn Layer<S> + Send + Sync>;

fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(
    format: LogFormat,
) -> anyhow::Result<(BoxedLayer<S>, FlushAtEnd)> {
    match format {
        LogFormat::Journald => {
            return journald().with_context(|| format!("log-format journald: cannot log to {SOCKET}"));
        }
        LogFormat::Auto if stderr_is_the_journal() => {
            if let Ok(journald) = journald() {
                return Ok(journald);
            }
        }
        LogFormat::Auto | LogFormat::Text | LogFormat::Json => {}
    }
    let (stderr, flush) = queued_stderr().context("cannot start the log's thread")?;
    // An error of the log itself is not printed to standard error: that would panic when it is closed.
    let stderr = fmt::layer().with_writer(move || stderr.clone()).log_internal_errors(false);
    let layer = match format {
        LogFormat::Json => stderr.json().flatten_event(true).boxed(),
        _ => stderr.with_ansi(std::io::stderr().is_terminal()).boxed(),
    };
    Ok((layer, flush))
}

fn journald<S: Subscriber + for<'a> LookupSpan<'a>>() -> std::io::Result<(BoxedLayer<S>, FlushAtEnd)> {
    let (queue, flush) = LineQueue::start(JournalSocket::open(Path::new(SOCKET))?)?;
    Ok((JournalLayer(queue).boxed(), flush))
}

/// systemd names the device and inode of a standard error that it collects: systemd.exec(5), `JOURNAL_STREAM`.
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let stderr = rustix::fs::fstat(rustix::stdio::stderr());
    stderr.is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
        && Path::new(SOCKET).exists()
}
