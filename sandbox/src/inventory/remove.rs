//! Removes what has no owner. That it has none is looked up once more right before: ids are random and never come back,
//! process ids do.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crisp_executor::cgroup::{CgroupError, CgroupPath};
use crisp_operation::Interrupted;
use crisp_operation::record::remove_folder;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::task::spawn_blocking;

use super::{Known, Leftover, Owner, Owners, processes};
use crate::network::{NetworkError, withdraw_namespace};
use crate::service_state::ServiceState;

/// For a killed process to end.
const DEATH: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Why an orphan is still there.
#[derive(Debug, thiserror::Error)]
pub enum NotRemoved {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("process {pid}: {source}")]
    Process { pid: i32, source: io::Error },
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// # Errors
/// The kernel's, or a plugin's.
pub(crate) async fn remove(
    service: &Arc<ServiceState>,
    known: &Arc<Known>,
    leftover: &Leftover,
) -> Result<(), NotRemoved> {
    match leftover {
        Leftover::Attachment(pod) => return Ok(service.networks.detach(pod).await?),
        Leftover::HostPorts(pod) => {
            service.networks.release_ports(pod);
            return Ok(());
        }
        _ => {}
    }
    let (service, known, leftover) = (service.clone(), known.clone(), leftover.clone());
    let work = move || remove_now(&Owners { service: &service, known: &known }, &leftover);
    spawn_blocking(work).await.unwrap_or(Err(Interrupted::ShuttingDown.into()))
}

fn remove_now(owners: &Owners<'_>, leftover: &Leftover) -> Result<(), NotRemoved> {
    let networks = &owners.service.networks;
    match leftover {
        Leftover::Process(pid) => {
            kill(owners, *pid).map_err(|source| NotRemoved::Process { pid: *pid, source })
        }
        Leftover::Cgroup(path) => remove_cgroup(owners, path),
        Leftover::NetworkNamespace(path) => Ok(withdraw_namespace(path)?),
        Leftover::Mount(path) => at(path, unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)),
        Leftover::Interface(name) => Ok(networks.remove_interface(name)?),
        Leftover::PacketRules(network) => Ok(networks.remove_stray_rules(network)?),
        Leftover::Folder(path) => {
            remove_folder(path).map_err(|source| NotRemoved::File { path: path.clone(), source })
        }
        // Not of blocking work.
        Leftover::Attachment(_) | Leftover::HostPorts(_) => Ok(()),
    }
}

fn at(path: &Path, result: Result<(), Errno>) -> Result<(), NotRemoved> {
    match result {
        // It has gone meanwhile.
        Ok(()) | Err(Errno::NOENT | Errno::INVAL) => Ok(()),
        Err(errno) => Err(NotRemoved::File { path: path.to_owned(), source: errno.into() }),
    }
}

fn kill(owners: &Owners<'_>, pid: i32) -> io::Result<()> {
    let Some(number) = Pid::from_raw(pid) else { return Ok(()) };
    let process = match pidfd_open(number, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(()),
        other => other?,
    };
    // The descriptor keeps the process id from being reused: now it is certain whose it is.
    if !matches!(processes::owner(owners, pid), Some((_, Owner::Orphan(_)))) {
        return Ok(());
    }
    match pidfd_send_signal(&process, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(errno) => return Err(errno.into()),
    }
    match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&DEATH))? {
        0 => Err(io::Error::other("it was killed and has not ended")),
        _ => Ok(()),
    }
}

fn remove_cgroup(owners: &Owners<'_>, path: &CgroupPath) -> Result<(), NotRemoved> {
    let cgroups = &owners.service.cgroups;
    match cgroups.open(path) {
        Ok(cgroup) => cgroup.kill()?,
        Err(CgroupError::NotFound { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    Ok(cgroups.remove(path)?)
}
