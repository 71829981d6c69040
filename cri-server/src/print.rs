//! Standard output of the commands.

use std::fmt::Display;
use std::io::Write as _;

/// Prints a line. Fails if the reader is gone, where println! would panic.
///
/// # Errors
/// The kernel's error.
pub fn line(text: impl Display) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}
