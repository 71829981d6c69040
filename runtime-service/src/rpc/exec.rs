//! Exec.

use std::sync::Arc;

use crisp_proto::runtime::v1::{ExecRequest, ExecResponse};
use crisp_streaming::ProcessRequest;

use super::{Reply, ServiceState};
use crate::convert;
use crate::ops;

pub(super) fn call(service: &Arc<ServiceState>, request: ExecRequest) -> Reply<ExecResponse> {
    if request.cmd.first().is_none_or(String::is_empty) {
        return Err(convert::invalid("cmd", "empty").into());
    }
    let words = convert::container::strings("cmd", request.cmd)?;
    let ExecRequest { stdin, stdout, stderr, tty, .. } = request;
    let streams = convert::streams::process(ProcessRequest { stdin, stdout, stderr, tty })?;
    let container = service.container(&request.container_id)?;
    Ok(ExecResponse { url: ops::container_exec::container_exec(service, &container, words, streams)? })
}
