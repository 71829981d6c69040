//! ReopenContainerLog, and opening log files: the server opens them by path, the monitor writes them.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, openat2, statx};
use rustix::io::Errno;

use crate::cause::{Cause, Operation, StageFailure, Steps};
use crate::container::Container;
use crate::error::RuntimeError;
use crate::service_state::ServiceState;

const OPERATION: &str = "reopen_log";
const DEADLINE: Duration = Duration::from_secs(15);

/// Opens a file for appending; creates it (0640) and its folders if missing. The last part of the path must
/// not be a symbolic link: a program that can write to the folder could point it at any file of the host.
///
/// # Errors
/// The error names the path.
pub fn open(path: &Path) -> Result<OwnedFd, Cause> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Cause::file(folder))?;
    }
    open_in_folder(path)
}

/// As [`open`], in a folder that is there.
///
/// # Errors
/// The error names the path.
pub(super) fn open_in_folder(path: &Path) -> Result<OwnedFd, Cause> {
    // NONBLOCK: a pipe at the path must not hang the server. It has no effect for a regular file.
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::CLOEXEC
        | OFlags::NONBLOCK;
    let file =
        rustix::fs::open(path, flags, Mode::from_raw_mode(0o640)).map_err(|e| Cause::file(path)(e.into()))?;
    let stat = rustix::fs::fstat(&file).map_err(|e| Cause::file(path)(e.into()))?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(Cause::file(path)(std::io::Error::other("is not a regular file")));
    }
    Ok(file)
}

/// Whether `log` is the file at `path`, as far as the kernel knows without reading from a disk or asking a file
/// server: false also where it would have to.
pub(super) fn is_still_at(log: &OwnedFd, path: &Path) -> bool {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let now = open_in_cache(path, flags);
    now.and_then(|now| Ok(identity(&now)? == identity(log)?)).unwrap_or(false)
}

/// Whether it is a folder, as far as the kernel knows without reading from a disk or asking a file server.
pub(super) fn is_folder_in_cache(path: &Path) -> bool {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open_in_cache(path, flags).is_ok()
}

/// A mount or a rename elsewhere interrupts the kernel's look-up; with this flag it does not begin anew by itself.
fn open_in_cache(path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    const TRIES: usize = 5;
    let open = || openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED);
    (1..TRIES).map(|_| open()).find(|opened| !matches!(opened, Err(Errno::AGAIN))).unwrap_or_else(open)
}

fn identity(file: &OwnedFd) -> Result<(u32, u32, u64), Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(file, c"", flags, StatxFlags::INO)?;
    Ok((stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino))
}

/// Redirects a running container's output to a new file at the same path, after a rotation.
///
/// # Errors
/// The container does not run, or a stage failed.
pub async fn reopen(service: &Arc<ServiceState>, container: &Arc<Container>) -> Result<(), RuntimeError> {
    reopen_holding(service, container, ()).await
}

/// As [`reopen`]; `hold` is kept until no thread works on it any more.
///
/// # Errors
/// As [`reopen`].
pub(crate) async fn reopen_holding(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    hold: impl Send + 'static,
) -> Result<(), RuntimeError> {
    let id = container.id();
    let state = container.status();
    if state.state.pid().is_none() {
        return Err(RuntimeError::Refused {
            id: id.clone(),
            refusal: state.state.refuse("have its log reopened"),
        });
    }
    let Some(path) = container.metadata.log_path.clone() else { return Ok(()) };
    let mut operation = service.operation(OPERATION, id);
    operation.hold(hold);
    let result = reopen_stages(&operation, service, container, path).await;
    Ok(operation.finish(result).await?)
}

async fn reopen_stages(
    operation: &Operation,
    service: &ServiceState,
    container: &Container,
    path: PathBuf,
) -> Result<(), StageFailure> {
    let log = operation.blocking(DEADLINE, move |steps: &Steps| steps.step("open", || open(&path))).await?;
    pass_on(operation, service, container, log).await
}

/// Lets the monitor write the container's output to `log`.
pub(super) async fn pass_on(
    operation: &Operation,
    service: &ServiceState,
    container: &Container,
    log: OwnedFd,
) -> Result<(), StageFailure> {
    let reopen = |_| async {
        let pod = service.pod_of(container).ok_or(Cause::PodGone)?;
        Ok(pod.link()?.reopen_log(container.id(), log).await?)
    };
    operation.stage("monitor", DEADLINE, reopen).await
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn logs_are_appended_to_and_folders_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app/0.log");
        for line in ["one\n", "two\n"] {
            fs::File::from(open(&path).unwrap()).write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn a_log_that_is_moved_or_deleted_or_replaced_is_not_at_its_path_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let log = open(&path).unwrap();
        assert!(is_still_at(&log, &path));
        fs::rename(&path, dir.path().join("0.log.old")).unwrap();
        assert!(!is_still_at(&log, &path));
        symlink("0.log.old", &path).unwrap();
        assert!(!is_still_at(&log, &path), "a link to it");
        fs::remove_file(&path).unwrap();
        let new = open(&path).unwrap();
        assert_eq!((is_still_at(&log, &path), is_still_at(&new, &path)), (false, true));
    }

    #[test]
    fn a_link_or_a_pipe_in_its_place_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        symlink("/etc/hostname", &path).unwrap();
        assert!(open(&path).unwrap_err().to_string().contains("0.log"));
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert!(open(&pipe).is_err());
    }
}
