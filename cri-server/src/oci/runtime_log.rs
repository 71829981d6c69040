//! `--log`: the file in which callers look for the reason of a failure.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crisp_operation::clock;

use crate::time;

/// The format of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// A file to append to, or none.
#[derive(Debug)]
pub struct RuntimeLog {
    path: Option<PathBuf>,
    format: Format,
}

impl RuntimeLog {
    pub fn new(path: Option<&Path>, format: Format) -> Self {
        Self { path: path.map(Path::to_owned), format }
    }

    /// Logs why the command failed.
    pub fn error(&self, error: &anyhow::Error) {
        self.line("error", &format!("{error:#}"));
    }

    /// Logs a deviation or a failure that does not fail the command.
    pub fn warn(&self, text: &str) {
        self.line("warning", text);
    }

    /// A log that cannot be written is ignored: failures are also printed to standard error.
    fn line(&self, level: &str, message: &str) {
        let Some(path) = &self.path else { return };
        let time = time::shown(clock::now());
        let line = match self.format {
            Format::Text => format!("time={time:?} level={level} msg={message:?}\n"),
            Format::Json => {
                format!("{}\n", serde_json::json!({ "level": level, "msg": message, "time": time }))
            }
        };
        let file = OpenOptions::new().append(true).create(true).mode(0o644).open(path);
        if let Ok(mut file) = file {
            let _ = file.write_all(line.as_bytes());
        }
    }
}
