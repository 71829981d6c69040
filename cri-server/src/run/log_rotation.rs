//! Limits the size of the log of a running container: it is read once, to be printed, and nothing else
//! removes it before the pod ends.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crisp_proto::runtime::v1::ReopenContainerLogRequest;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use crisp_runtime_service::RuntimeService;
use tonic::Request;

use super::output::Output;

/// Interval of the checks.
const TICK: Duration = Duration::from_millis(250);
/// A log of this size is rotated once its present file is being printed: no output is lost then, because the
/// file before it has been printed.
const SIZE: u64 = 10 << 20;
/// A log of this size is always rotated: if the screen is too slow, the disk must not fill up.
const LARGEST: u64 = 256 << 20;

/// Rotates the container's log, with one old file, until dropped.
pub async fn keep_small(runtime: &RuntimeService, id: &str, log: &Path, output: Option<&Output>) {
    loop {
        tokio::time::sleep(TICK).await;
        let Ok(now) = fs::metadata(log) else { continue };
        // Without a reader nothing waits to be printed.
        if !is_due(now.len(), output.is_none_or(|output| output.inode() == now.ino())) {
            continue;
        }
        if let Err(error) = rotate(runtime, id, log).await {
            tracing::warn!(path = %log.display(), %error, "cannot rotate a log");
            // Most likely the container has just ended.
            tokio::time::sleep(TICK * 20).await;
        }
    }
}

fn is_due(size: u64, is_printed: bool) -> bool {
    size >= LARGEST || (size >= SIZE && is_printed)
}

async fn rotate(runtime: &RuntimeService, id: &str, log: &Path) -> io::Result<()> {
    let old = old_file(log);
    fs::rename(log, &old)?;
    let request = ReopenContainerLogRequest { container_id: id.to_owned() };
    match runtime.reopen_container_log(Request::new(request)).await {
        Ok(_) => Ok(()),
        Err(status) => {
            // The container still writes to the old file, unless it has ended: readers find the file by its
            // name.
            if !log.exists() {
                fs::rename(&old, log)?;
            }
            Err(io::Error::other(status.message().to_owned()))
        }
    }
}

/// `0.log.1`.
fn old_file(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_waits_for_its_reader_but_not_for_ever() {
        assert!(!is_due(SIZE - 1, true) && is_due(SIZE, true));
        assert!(!is_due(SIZE, false) && !is_due(LARGEST - 1, false) && is_due(LARGEST, false));
        assert_eq!(old_file(Path::new("/l/0.log")), Path::new("/l/0.log.1"));
    }
}
