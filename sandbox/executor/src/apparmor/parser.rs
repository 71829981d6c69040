//! `apparmor_parser`, which compiles the text of a profile and loads it into the kernel. The kernel only
//! accepts the compiled form, which only the parser can make.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::AppArmorError;

/// The paths of the parser in distributions, below the root.
const PLACES: [&str; 4] = [
    "usr/sbin/apparmor_parser",
    "sbin/apparmor_parser",
    "usr/bin/apparmor_parser",
    "usr/local/sbin/apparmor_parser",
];

/// Time limit for the parser. It takes a tenth of a second; on a busy node some seconds.
const DEADLINE: Duration = Duration::from_secs(30);

/// Limit for the parser's message.
const MESSAGE: u64 = 2048;

pub(super) fn find(root: &Path) -> Option<PathBuf> {
    PLACES.iter().map(|place| root.join(place)).find(|path| path.exists())
}

/// Loads `profile`; it replaces an older one with the same name.
#[expect(clippy::disallowed_methods, reason = "only this program compiles profiles")]
pub(super) fn load(parser: &Path, profile: &str) -> Result<(), AppArmorError> {
    let failed = |problem: String| AppArmorError::Parser { parser: parser.to_owned(), problem };
    let mut child = Command::new(parser)
        .args(["--skip-cache", "--replace"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A parser that ends before it has read everything reports the reason on its standard error.
        let _ = stdin.write_all(profile.as_bytes());
    }
    let status = wait(&mut child).map_err(|error| failed(error.to_string()))?;
    match status {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(failed(format!("{status}: {}", message(&mut child)))),
        None => Err(failed(format!("did not end within {DEADLINE:?} and was killed"))),
    }
}

/// Returns None when the parser was killed at the deadline.
#[expect(clippy::disallowed_methods, reason = "this runs on a thread of blocking work")]
fn wait(child: &mut Child) -> std::io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() > DEADLINE {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn message(child: &mut Child) -> String {
    let mut text = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(MESSAGE).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).trim().replace('\n', "; ")
}
