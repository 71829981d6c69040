//! Removes orphans that hold neither data nor processes. The others are left to people: a wrong decision
//! would destroy a pod or its data.

use std::sync::Arc;

use crisp_executor::cgroup::{CgroupError, CgroupPath};
use crisp_executor::ids::PodId;
use crisp_operation::Interrupted;
use tokio::task::spawn_blocking;

use super::{Leftover, processes};
use crate::network::{NetworkError, withdraw_namespace};
use crate::service_state::ServiceState;

/// The reason why an orphan was not removed.
#[derive(Debug, thiserror::Error)]
pub enum NotRemoved {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error("it may hold data or processes that are needed: look at it, and remove it by hand")]
    ByHand,
    #[error("process {pid} is in it: end that first")]
    InUse { pid: i32 },
    #[error("the monitor of pod {pod} runs: end that first")]
    Monitored { pod: PodId },
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// # Errors
/// The kernel's error, or a plugin's.
pub(crate) async fn remove(service: &Arc<ServiceState>, leftover: &Leftover) -> Result<(), NotRemoved> {
    match leftover {
        Leftover::Attachment(pod) => {
            without_monitor(pod).await?;
            Ok(service.networks.detach(pod).await?)
        }
        Leftover::HostPorts(pod) => {
            without_monitor(pod).await?;
            service.networks.release_ports(pod);
            Ok(())
        }
        Leftover::Process(_) | Leftover::Mount(_) | Leftover::Folder(_) => Err(NotRemoved::ByHand),
        _ => {
            let (service, leftover) = (service.clone(), leftover.clone());
            blocking(move || remove_now(&service, &leftover)).await
        }
    }
}

async fn blocking(work: impl FnOnce() -> Result<(), NotRemoved> + Send + 'static) -> Result<(), NotRemoved> {
    spawn_blocking(work).await.unwrap_or(Err(Interrupted::ShuttingDown.into()))
}

/// Fails if the pod's monitor runs: the pod may be listed soon.
async fn without_monitor(pod: &PodId) -> Result<(), NotRemoved> {
    let pod = pod.clone();
    blocking(move || match processes::has_monitor(&pod) {
        true => Err(NotRemoved::Monitored { pod }),
        false => Ok(()),
    })
    .await
}

fn remove_now(service: &ServiceState, leftover: &Leftover) -> Result<(), NotRemoved> {
    let networks = &service.networks;
    match leftover {
        Leftover::Cgroup(path) => remove_cgroup(service, path),
        Leftover::NetworkNamespace(path) => Ok(withdraw_namespace(path)?),
        Leftover::Interface(name) => Ok(networks.remove_interface(name)?),
        Leftover::PacketRules(network) => Ok(networks.remove_stray_rules(network)?),
        Leftover::Process(_)
        | Leftover::Mount(_)
        | Leftover::Folder(_)
        | Leftover::Attachment(_)
        | Leftover::HostPorts(_) => Err(NotRemoved::ByHand),
    }
}

fn remove_cgroup(service: &ServiceState, path: &CgroupPath) -> Result<(), NotRemoved> {
    let cgroups = &service.cgroups;
    match cgroups.open(path) {
        Ok(cgroup) => {
            if let Some(pid) = cgroup.pids()?.first() {
                return Err(NotRemoved::InUse { pid: *pid });
            }
        }
        Err(CgroupError::NotFound { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    Ok(cgroups.remove(path)?)
}
