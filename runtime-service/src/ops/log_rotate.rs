//! Rotates the log of a running container, and finds logs that have become too large.
//!
//! ```text
//!   0.log ──> 0.log.1 ──> 0.log.2 ──> deleted        the monitor goes on in a new 0.log
//! ```

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags, StatxFlags, openat2, renameat_with, statx,
};

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
        let (new, undo_new) = (new_name(&path), new_name(&path));
        steps.undo("open", move || remove(&undo_new).map_err(Cause::file(&undo_new)));
        // Before anything is renamed: where no file can be made, nothing changes. The folder may have been removed,
        // with the container: it is not made again.
        let log = steps.step("open", || {
            remove(&new).map_err(Cause::file(&new))?;
            log_reopen::open_in_folder(&new)
        })?;
        steps.step("rename", || {
            // Another rotation may have waited for the same volume.
            if !is_at(&log, &new) {
                return Err(Cause::file(&new)(io::Error::other("was replaced")));
            }
            shift(&path, files)
        })?;
        Ok(log)
    };
    let log = operation.blocking(DEADLINE, work).await?;
    log_reopen::pass_on(operation, service, container, log).await
}

/// Renames `0.log` to `0.log.1`, after `0.log.1` to `0.log.2` and so on, the new file to `0.log`, and deletes those that
/// are too many. A number that is missing, as after a rotation that failed, is filled first: no file goes for nothing.
fn shift(log: &Path, files: u32) -> Result<(), Cause> {
    let highest = files.max(2) - 1;
    let to = (1..highest).find(|number| is_missing(&numbered(log, *number))).unwrap_or(highest);
    for number in (1..to).rev() {
        let older = numbered(log, number);
        match fs::rename(&older, numbered(log, number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Cause::file(&older)(error)),
            _ => {}
        }
    }
    fs::rename(log, numbered(log, 1)).map_err(Cause::file(log))?;
    let new = new_name(log);
    if let Err(error) = fs::rename(&new, log) {
        // Without a new file the container still writes to the renamed one, and readers find it by its name.
        let renamed = numbered(log, 1);
        renameat_with(CWD, &renamed, CWD, log, RenameFlags::NOREPLACE)
            .map_err(|error| Cause::file(&renamed)(error.into()))?;
        return Err(Cause::file(&new)(error));
    }
    // The number may have been higher before.
    (highest + 1..).map_while(|number| fs::remove_file(numbered(log, number)).ok()).for_each(drop);
    Ok(())
}

fn is_missing(file: &Path) -> bool {
    fs::symlink_metadata(file).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn is_at(file: &OwnedFd, path: &Path) -> bool {
    let there = fs::symlink_metadata(path);
    let (Ok(there), Ok(file)) = (there, rustix::fs::fstat(file)) else { return false };
    (there.dev(), there.ino()) == (file.st_dev, file.st_ino)
}

/// No error where there is no such file.
fn remove(file: &Path) -> io::Result<()> {
    fs::remove_file(file)
        .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Whether there is a `0.log.1`. If a server died, or failed, before the monitor had the new file, it still writes to that.
pub(crate) fn was_rotated(log: &Path) -> bool {
    numbered(log, 1).exists()
}

/// The hidden name under which the new file is made.
fn new_name(log: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(log.file_name().unwrap_or_default());
    name.push(".crisp-new");
    log.with_file_name(name)
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
        let rotate = |files| {
            fs::write(new_name(&log), "").unwrap();
            shift(&log, files)
        };
        for number in 1..=4 {
            fs::write(&log, number.to_string()).unwrap();
            rotate(3).unwrap();
        }
        assert_eq!(names(), "0.log.1=4 0.log.2=3 0.log=");
        assert!(was_rotated(&log));
        fs::write(&log, "5").unwrap();
        rotate(2).unwrap();
        assert_eq!(names(), "0.log.1=5 0.log=", "fewer are kept");
    }

    #[test]
    fn rotations_that_fail_lose_no_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("0.log");
        let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        for (name, text) in [("0.log", "new"), ("0.log.1", "1"), ("0.log.2", "2"), ("0.log.3", "3")] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        for _ in 0..3 {
            // There is no new file to take the place of the log.
            let error = shift(&log, 4).unwrap_err();
            assert!(error.to_string().contains(".0.log.crisp-new"), "{error}");
            assert_eq!(
                [&log, &numbered(&log, 2), &numbered(&log, 3)].map(|path| text(path)),
                ["new", "1", "2"]
            );
        }
        fs::write(new_name(&log), "").unwrap();
        shift(&log, 4).unwrap();
        assert_eq!([1, 2, 3].map(|number| text(&numbered(&log, number))), ["new", "1", "2"]);
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
