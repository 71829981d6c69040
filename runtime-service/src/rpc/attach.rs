//! Attach.

use std::sync::Arc;

use crisp_proto::runtime::v1::{AttachRequest, AttachResponse};
use crisp_streaming::ProcessRequest;

use super::{Reply, ServiceState};
use crate::convert;
use crate::ops;

pub(super) fn call(service: &Arc<ServiceState>, request: AttachRequest) -> Reply<AttachResponse> {
    let AttachRequest { stdin, stdout, stderr, tty, .. } = request;
    let streams = convert::streams::process(ProcessRequest { stdin, stdout, stderr, tty })?;
    let container = service.container(&request.container_id)?;
    Ok(AttachResponse { url: ops::container_attach::container_attach(service, &container, streams)? })
}
