//! RPCs that return the URL of a session.

use std::sync::Arc;

use crisp_proto::runtime::v1::{
    AttachRequest, AttachResponse, ExecRequest, ExecResponse, PortForwardRequest, PortForwardResponse,
};
use crisp_streaming::ProcessRequest;

use super::{Reply, ServiceState};
use crate::convert::{self, ConvertError, invalid};
use crate::ops;

/// Exec.
pub(super) fn exec(service: &Arc<ServiceState>, request: ExecRequest) -> Reply<ExecResponse> {
    if request.cmd.first().is_none_or(String::is_empty) {
        return Err(invalid("cmd", "empty").into());
    }
    let words = convert::container::strings("cmd", request.cmd)?;
    let ExecRequest { stdin, stdout, stderr, tty, .. } = request;
    let streams = convert::streams::process(ProcessRequest { stdin, stdout, stderr, tty })?;
    let container = service.container(&request.container_id)?;
    Ok(ExecResponse { url: ops::container_exec::container_exec(service, &container, words, streams)? })
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
