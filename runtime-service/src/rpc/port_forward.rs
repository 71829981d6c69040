//! PortForward.

use std::sync::Arc;

use crisp_proto::runtime::v1::{PortForwardRequest, PortForwardResponse};

use super::{Reply, ServiceState};
use crate::convert::{ConvertError, invalid};
use crate::ops;

pub(super) fn call(service: &Arc<ServiceState>, request: PortForwardRequest) -> Reply<PortForwardResponse> {
    let port = |port: i32| -> Result<u16, ConvertError> {
        let number = u16::try_from(port).ok().filter(|port| *port != 0);
        number.ok_or_else(|| invalid("port", format!("{port} is not a port: they go from 1 to 65535")))
    };
    // Most clients name none here: each stream has its own.
    let ports = request.port.into_iter().map(port).collect::<Result<_, _>>()?;
    let pod = service.pods.find(&request.pod_sandbox_id)?;
    Ok(PortForwardResponse { url: ops::pod_port_forward::pod_port_forward(service, &pod, ports)? })
}
