//! What crisp itself says about a running pod.

use std::fmt::Display;
use std::io::{self, Write as _};

/// Writes a line to standard error. One that is closed must not fail a run, which still has a pod to remove:
/// `eprintln!` would panic.
pub fn notice(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "crisp: {text}");
}
