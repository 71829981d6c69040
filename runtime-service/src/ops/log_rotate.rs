//! Rotates the log of a running container, and finds logs that have become too large.
//!
//! ```text
//!   0.log ──> 0.log.1 ──> 0.log.2 ──> deleted        the monitor goes on in a new 0.log
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags, StatxFlags, openat2, renameat_with, statx,
};
use rustix::io::Errno;

use super::log_reopen;
use crate::cause::{Cause, Operation, StageFailure, Steps};
use crate::container::Container;
use crate::error::RuntimeError;
use crate::service_state::ServiceState;

const OPERATION: &str = "rotate_log";
const DEADLINE: Duration = Duration::from_secs(15);

/// Renames the container's log and the older ones, keeps `files` of them with the present one, and lets the monitor
/// write to a new file. `hold` is kept until no thread works on it any more.
///
/// # Errors
/// A stage failed. The container may go on writing to the renamed file, until its log is reopened.
pub async fn rotate(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    files: u32,
    hold: impl Send + 'static,
) -> Result<(), RuntimeError> {
    let Some(path) = container.metadata.log_path.clone() else { return Ok(()) };
    let mut operation = service.operation(OPERATION, container.id());
    operation.hold(hold);
    let result = stages(&operation, service, container, path, files).await;
    Ok(operation.finish(result).await?)
}

async fn stages(
    operation: &Operation,
    service: &ServiceState,
    container: &Container,
    path: PathBuf,
    files: u32,
) -> Result<(), StageFailure> {
    let work = move |steps: &Steps| {
        let (log, renamed) = (path.clone(), Arc::new(AtomicBool::new(false)));
        let is_renamed = Arc::clone(&renamed);
        steps.undo("rename", move || {
            if is_renamed.load(Ordering::Acquire) {
                take_back(&log).map_err(Cause::file(&log))
            } else {
                Ok(())
            }
        });
        steps.step("rename", || {
            shift(&path, files)?;
            renamed.store(true, Ordering::Release);
            Ok(())
        })?;
        // The folder may have been removed, with the container: it is not made again.
        steps.step("open", || log_reopen::open_in_folder(&path))
    };
    let log = operation.blocking(DEADLINE, work).await?;
    log_reopen::pass_on(operation, service, container, log).await
}

/// Renames `0.log` to `0.log.1`, after `0.log.1` to `0.log.2` and so on, and deletes those that are too many.
fn shift(log: &Path, files: u32) -> Result<(), Cause> {
    for number in (1..files.saturating_sub(1)).rev() {
        let older = numbered(log, number);
        match fs::rename(&older, numbered(log, number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Cause::file(&older)(error)),
            _ => {}
        }
    }
    fs::rename(log, numbered(log, 1)).map_err(Cause::file(log))?;
    // The number may have been higher before.
    (files.max(2)..).map_while(|number| fs::remove_file(numbered(log, number)).ok()).for_each(drop);
    Ok(())
}

/// Without a new file the container still writes to the renamed one, and readers find it by its name.
fn take_back(log: &Path) -> io::Result<()> {
    match renameat_with(CWD, numbered(log, 1), CWD, log, RenameFlags::NOREPLACE) {
        Ok(()) | Err(Errno::NOENT | Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether the monitor may still write to `0.log.1`: a server died, or failed, between the rename and the new file.
pub(crate) fn is_half_rotated(log: &Path) -> bool {
    fs::metadata(log).map_or(0, |log| log.len()) == 0 && numbered(log, 1).exists()
}

/// `0.log.1`.
fn numbered(log: &Path, number: u32) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// The size of a log, as far as the kernel knows without reading from a disk or asking a file server. None where it
/// would have to; also for a link in the path that it has not walked for a day.
pub(crate) fn size_in_cache(log: &Path) -> Option<u64> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat2(CWD, log, flags, Mode::empty(), ResolveFlags::CACHED).ok()?;
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    Some(statx(file, c"", flags, StatxFlags::SIZE).ok()?.stx_size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_files_are_kept_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("0.log");
        let names = || {
            let mut names: Vec<_> = fs::read_dir(folder.path())
                .unwrap()
                .map(|entry| {
                    let path = entry.unwrap().path();
                    let text = fs::read_to_string(&path).unwrap();
                    format!("{}={text}", path.file_name().unwrap().to_str().unwrap())
                })
                .collect();
            names.sort();
            names.join(" ")
        };
        for number in 1..=4 {
            fs::write(&log, number.to_string()).unwrap();
            shift(&log, 3).unwrap();
        }
        assert_eq!(names(), "0.log.1=4 0.log.2=3");
        take_back(&log).unwrap();
        assert_eq!(names(), "0.log.2=3 0.log=4");
        fs::write(folder.path().join("0.log.1"), "old").unwrap();
        take_back(&log).unwrap();
        assert_eq!(names(), "0.log.1=old 0.log.2=3 0.log=4", "the container has its log");
        assert!(!is_half_rotated(&log));
        shift(&log, 2).unwrap();
        assert_eq!(names(), "0.log.1=4", "fewer are kept");
        assert!(is_half_rotated(&log));
        fs::write(&log, "").unwrap();
        assert!(is_half_rotated(&log));
    }

    #[test]
    fn the_size_of_an_open_log_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("0.log");
        assert_eq!(size_in_cache(&log), None);
        fs::write(&log, "12345").unwrap();
        assert_eq!(size_in_cache(&log), Some(5));
    }
}
