//! Tests that cannot run here say so; CI counts the lines.

use std::io::Write;

/// True when the calling test must be left out.
pub(crate) fn without_root() -> bool {
    let skip = !rustix::process::geteuid().is_root();
    if skip {
        because("needs root");
    }
    skip
}

/// Past libtest's capture, which would hide it. libtest's threads have the tests' names.
pub(crate) fn because(reason: &str) {
    let thread = std::thread::current();
    let _ = writeln!(std::io::stderr(), "SKIPPED: {}: {reason}", thread.name().unwrap_or_default());
}
