//! A container against the pod that it is to live in: what it may ask for, and which PID namespace
//! its wish means there.

use crisp_executor::id::ContainerId;
use crisp_sandbox::{NamespaceMode, PidMode, Pod};
use rustix::process::{Pid as Process, PidfdFlags};
use std::os::fd::OwnedFd;

use crate::container::PidChoice;
use crate::container::config::{ContainerConfig, PidRequest};
use crate::convert::{self, ConvertError};
use crate::error::RuntimeError;
use crate::service_state::ServiceState;
use crate::spec::Pid;
use crate::stage::Cause;

/// # Errors
/// The field that its pod does not allow.
pub(super) fn check(config: &ContainerConfig, pod: &Pod) -> Result<(), ConvertError> {
    let at = |name: &str| format!("config.linux.security_context.{name}");
    if config.security.privileged && !pod.config.privileged {
        return Err(convert::invalid(at("privileged"), "true, but its pod is not privileged"));
    }
    for (name, asked, pods) in [
        ("network", config.security.host_network, pod.config.network),
        ("ipc", config.security.host_ipc, pod.config.ipc),
    ] {
        if asked && pods != NamespaceMode::Host {
            return Err(convert::invalid(
                at(&format!("namespace_options.{name}")),
                "NODE, but the pod has a namespace of its own, which its containers share",
            ));
        }
    }
    Ok(())
}

/// # Errors
/// A namespace that this pod does not have, or a target that is not in it.
pub(super) fn pid_choice(
    service: &ServiceState,
    request: &PidRequest,
    pod: &Pod,
) -> Result<PidChoice, RuntimeError> {
    let field = "config.linux.security_context.namespace_options.pid";
    let only_if = |mode: PidMode, choice: PidChoice, what: &str| {
        if pod.config.pid == mode {
            Ok(choice)
        } else {
            let problem = format!("{what}, but the pod was made with {:?}", pod.config.pid);
            Err(convert::invalid(field, problem).into())
        }
    };
    match request {
        PidRequest::Own => Ok(PidChoice::Own),
        PidRequest::OfPod => Ok(match pod.config.pid {
            PidMode::Pod => PidChoice::Pod,
            PidMode::Container => PidChoice::Own,
            PidMode::Host => PidChoice::Host,
        }),
        PidRequest::Pod => only_if(PidMode::Pod, PidChoice::Pod, "POD"),
        PidRequest::Host => only_if(PidMode::Host, PidChoice::Host, "NODE"),
        PidRequest::Target(id) => {
            let target = service.container(id)?;
            if target.metadata.pod != pod.id {
                let field = "config.linux.security_context.namespace_options.target_id";
                return Err(convert::invalid(field, format!("{id} is in another pod")).into());
            }
            Ok(PidChoice::Target(target.id().clone()))
        }
    }
}

/// The choice in terms of processes that run now.
pub(super) fn current_pid(service: &ServiceState, choice: &PidChoice) -> Result<Pid, Cause> {
    Ok(match choice {
        PidChoice::Own => Pid::Own,
        PidChoice::Pod => Pid::Pod,
        PidChoice::Host => Pid::Host,
        PidChoice::Target(id) => Pid::Target(pid_of_target(service, id)?),
    })
}

/// The first process of a container whose PID namespace another one wants to join.
pub(super) fn pid_of_target(service: &ServiceState, id: &ContainerId) -> Result<i32, Cause> {
    let target = service.containers.get(id);
    let pid = target.as_ref().and_then(|t| t.status().state.pid());
    pid.ok_or_else(|| Cause::Task(format!("the target container {} does not run", id.short())))
}

/// The same process, whose number cannot be given away meanwhile.
pub(super) fn pidfd_of_target(service: &ServiceState, id: &ContainerId) -> Result<OwnedFd, Cause> {
    let pid = Process::from_raw(pid_of_target(service, id)?).ok_or(Cause::Kernel(rustix::io::Errno::SRCH))?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(Cause::Kernel)?;
    // The number may have been given to another process between the look and the open.
    match pid_of_target(service, id) {
        Ok(again) if again == pid.as_raw_nonzero().get() => Ok(pidfd),
        _ => Err(Cause::Kernel(rustix::io::Errno::SRCH)),
    }
}
