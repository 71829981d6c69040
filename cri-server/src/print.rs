//! Lines on the standard streams. println! and eprintln! panic when the reader has left, as in
//! `crisp system prune -f | head -1`.

use std::fmt::Display;
use std::io::Write as _;

/// Prints a line of the result. The command ends when its reader has left.
///
/// # Errors
/// The kernel's error.
pub fn line(text: impl Display) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// Prints a line while work goes on, also without a reader.
pub fn best_effort(text: impl Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints a line on standard error.
pub fn warning(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
