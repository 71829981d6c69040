//! Commands that may hang.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::Result;

/// Runs a command without input until it ends. A command that takes longer than `limit` is killed.
///
/// # Errors
/// When it cannot be run, or hangs.
pub fn run(command: &mut Command, limit: Duration) -> Result<Output> {
    // To files, because processes that a command leaves behind may keep its streams open.
    let (out, err) = (tempfile::NamedTempFile::new()?, tempfile::NamedTempFile::new()?);
    command.stdin(Stdio::null()).stdout(out.reopen()?).stderr(err.reopen()?);
    let mut child = command.spawn()?;
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            let said = std::fs::read_to_string(err.path())?;
            return Err(format!("no end of {command:?} within {limit:?}: {said}").into());
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    Ok(Output { status, stdout: std::fs::read(out.path())?, stderr: std::fs::read(err.path())? })
}
