//! Limits the size of the log of a running container whose output a `crisp run` prints: it is read once, and nothing
//! else removes it before the pod ends. Other logs are the server's to rotate.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use crisp_runtime_service::{LogLimits, RuntimeService};

use super::output::Output;

/// Interval of the checks.
const TICK: Duration = Duration::from_millis(250);
/// A log of this size is always rotated: if the screen is too slow, the disk must not fill up.
const LARGEST: u64 = 256 << 20;

/// Rotates the container's log until dropped. While it is printed, only once the present file is: no output is lost
/// then, because the file before it has been printed.
pub async fn keep_small(runtime: &RuntimeService, id: &str, log: &Path, output: Option<&Output>) {
    loop {
        tokio::time::sleep(TICK).await;
        let Some(limits) = runtime.live_config().log_limits else { continue };
        let Ok(now) = fs::metadata(log) else { continue };
        // Without a reader nothing waits to be printed.
        if !is_due(now.len(), limits, output.is_none_or(|output| output.inode() == now.ino())) {
            continue;
        }
        if let Err(error) = runtime.rotate_log(id, limits.files).await {
            tracing::warn!(path = %log.display(), %error, "cannot rotate a log");
            // Most likely the container has just ended.
            tokio::time::sleep(TICK * 20).await;
        }
    }
}

fn is_due(size: u64, limits: LogLimits, is_printed: bool) -> bool {
    size >= LARGEST.max(limits.size) || (size >= limits.size && is_printed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_waits_for_its_reader_but_not_for_ever() {
        let limits = LogLimits { size: 4096, files: 2 };
        assert!(!is_due(4095, limits, true) && is_due(4096, limits, true));
        assert!(!is_due(4096, limits, false) && !is_due(LARGEST - 1, limits, false));
        assert!(is_due(LARGEST, limits, false));
    }
}
