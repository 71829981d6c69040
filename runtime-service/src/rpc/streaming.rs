//! RPCs that return the URL of a session.

use std::sync::Arc;

use crisp_proto::crisp::v1::{ExecContainerReply, ExecContainerRequest};
use crisp_proto::runtime::v1::{
    AttachRequest, AttachResponse, ExecRequest, ExecResponse, PortForwardRequest, PortForwardResponse,
};
use crisp_streaming::ProcessRequest;

use super::{Reply, ServiceState};
use crate::convert::{self, ConvertError, invalid};
use crate::ops;
use crate::ops::exec::changes::Changes;

/// Exec.
pub(super) fn exec(service: &Arc<ServiceState>, request: ExecRequest) -> Reply<ExecResponse> {
    let ExecRequest { stdin, stdout, stderr, tty, .. } = request;
    let words = convert::streams::command("cmd", request.cmd)?;
    let streams = convert::streams::process(ProcessRequest { stdin, stdout, stderr, tty })?;
    let container = service.container(&request.container_id)?;
    let url = ops::container_exec::container_exec(service, &container, words, Changes::default(), streams)?;
    Ok(ExecResponse { url })
}

/// Exec of the service Containers.
pub(super) fn exec_with_changes(
    service: &Arc<ServiceState>,
    request: ExecContainerRequest,
) -> Reply<ExecContainerReply> {
    let ExecContainerRequest { stdin, stdout, stderr, tty, .. } = request;
    let words = convert::streams::command("command", request.command)?;
    let streams = convert::streams::process(ProcessRequest { stdin, stdout, stderr, tty })?;
    let changes = convert::streams::changes(request.user, request.environment, request.working_dir)?;
    let container = service.container(&request.container_id)?;
    let url = ops::container_exec::container_exec(service, &container, words, changes, streams)?;
    Ok(ExecContainerReply { url })
}

/// Attach.
pub(super) fn attach(service: &Arc<ServiceState>, request: AttachRequest) -> Reply<AttachResponse> {
    let AttachRequest { stdin, stdout, stderr, tty, .. } = request;
    let streams = convert::streams::process(ProcessRequest { stdin, stdout, stderr, tty })?;
    let container = service.container(&request.container_id)?;
    Ok(AttachResponse { url: ops::container_attach::container_attach(service, &container, streams)? })
}

/// PortForward.
pub(super) fn port_forward(
    service: &Arc<ServiceState>,
    request: PortForwardRequest,
) -> Reply<PortForwardResponse> {
    let port = |port: i32| -> Result<u16, ConvertError> {
        let number = u16::try_from(port).ok().filter(|port| *port != 0);
        number.ok_or_else(|| invalid("port", format!("{port} is not a port: they go from 1 to 65535")))
    };
    // Most clients name none here: each stream has its own port.
    let ports = request.port.into_iter().map(port).collect::<Result<_, _>>()?;
    let pod = service.pods.find(&request.pod_sandbox_id)?;
    Ok(PortForwardResponse { url: ops::pod_port_forward::pod_port_forward(service, &pod, ports)? })
}
