//! Honest skips: a test that lacks something says what, on a line that the test run counts.

use std::path::PathBuf;

/// The path of a program on PATH (or in sbin).
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/sbin", "/usr/local/go/bin"]);
    folders.map(|folder| PathBuf::from(folder).join(name)).find(|file| file.is_file())
}

/// Why this machine cannot run the tests, if it cannot.
#[must_use]
pub fn missing(programs: &[&str]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root".into());
    }
    let absent: Vec<_> = programs.iter().filter(|name| program(name).is_none()).copied().collect();
    (!absent.is_empty()).then(|| format!("needs {}", absent.join(", ")))
}

/// Leaves the test with a `SKIPPED: reason` line when one of the programs is missing.
#[macro_export]
macro_rules! needs {
    ($($program:expr),* $(,)?) => {
        if let Some(reason) = $crate::skip::missing(&[$($program),*]) {
            $crate::skip::say(&reason);
            return Ok(());
        }
    };
}

/// Prints the skip past the capture of test output, so that it is seen and counted.
pub fn say(reason: &str) {
    use std::io::Write as _;
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    let _ = writeln!(std::io::stderr(), "\nSKIPPED: {name}: {reason}");
}
