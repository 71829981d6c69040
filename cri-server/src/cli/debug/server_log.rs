//! The end of the server's log, where journald keeps it.

use std::process::{Command, Stdio};

/// Number of lines.
const LINES: &str = "5000";

/// Returns None when there is no journald, or journald has no log of a server.
pub fn end_of_log() -> Option<String> {
    if !std::path::Path::new("/run/systemd/journal/socket").exists() {
        return None;
    }
    #[expect(clippy::disallowed_methods, reason = "journald's files are read by its own program alone")]
    let mut command = Command::new("journalctl");
    command.args(["--no-pager", "--output", "short-iso-precise", "--lines", LINES, "_COMM=crisp"]);
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
