//! The PID namespace of a container: resolves the request against its pod.

use std::os::fd::OwnedFd;

use crisp_executor::ids::ContainerId;
use crisp_executor::plan::PidNamespace;
use crisp_sandbox::{PidMode, Pod};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::cause::Cause;
use crate::container::config::PidNamespaceRequest;
use crate::convert;
use crate::error::RuntimeError;
use crate::service_state::ServiceState;

/// # Errors
/// The pod does not have such a namespace, or the target is not in the pod.
pub(super) fn resolve(
    service: &ServiceState,
    request: &PidNamespaceRequest,
    pod: &Pod,
) -> Result<PidNamespace<ContainerId>, RuntimeError> {
    let field = "config.linux.security_context.namespace_options.pid";
    let only_if = |mode: PidMode, namespace: PidNamespace<ContainerId>, what: &str| {
        if pod.config.pid == mode {
            Ok(namespace)
        } else {
            let problem = format!("{what}, but the pod was created with {:?}", pod.config.pid);
            Err(convert::invalid(field, problem).into())
        }
    };
    match request {
        PidNamespaceRequest::Own => Ok(PidNamespace::Own),
        PidNamespaceRequest::OfPod => Ok(match pod.config.pid {
            PidMode::Pod => PidNamespace::Pod,
            PidMode::Container => PidNamespace::Own,
            PidMode::Host => PidNamespace::Host,
        }),
        PidNamespaceRequest::Pod => only_if(PidMode::Pod, PidNamespace::Pod, "POD"),
        PidNamespaceRequest::Host => only_if(PidMode::Host, PidNamespace::Host, "NODE"),
        PidNamespaceRequest::Target(id) => {
            let target = service.container(id)?;
            if target.metadata.pod != pod.id {
                let field = "config.linux.security_context.namespace_options.target_id";
                return Err(convert::invalid(field, format!("{id} is in another pod")).into());
            }
            Ok(PidNamespace::Target(target.id().clone()))
        }
    }
}

/// The first process of the container whose PID namespace another one joins.
///
/// # Errors
/// [`Cause::TargetNotRunning`].
pub(super) fn pid_of_target(service: &ServiceState, target: &ContainerId) -> Result<i32, Cause> {
    let pid = service.containers.get(target).and_then(|container| container.status().state.pid());
    pid.ok_or_else(|| Cause::TargetNotRunning { target: target.clone() })
}

/// The same process as a descriptor, which can never refer to another process.
///
/// # Errors
/// [`Cause::TargetNotRunning`], or the kernel's error.
pub(super) fn pidfd_of_target(service: &ServiceState, target: &ContainerId) -> Result<OwnedFd, Cause> {
    let not_running = || Cause::TargetNotRunning { target: target.clone() };
    let number = pid_of_target(service, target)?;
    let pid = Pid::from_raw(number).ok_or_else(not_running)?;
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Err(not_running()),
        opened => opened.map_err(Cause::system("open the target's process"))?,
    };
    // The process may have ended, and its number been reused, before the descriptor was opened.
    if pid_of_target(service, target)? == number { Ok(pidfd) } else { Err(not_running()) }
}
