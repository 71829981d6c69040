//! ExecSync.

use std::sync::Arc;
use std::time::Duration;

use crisp_proto::runtime::v1::{ExecSyncRequest, ExecSyncResponse};

use super::{Reply, ServiceState};
use crate::convert;
use crate::ops;

pub(super) async fn call(service: &Arc<ServiceState>, request: ExecSyncRequest) -> Reply<ExecSyncResponse> {
    if request.cmd.first().is_none_or(String::is_empty) {
        return Err(convert::invalid("cmd", "empty").into());
    }
    let command = convert::container::strings("cmd", request.cmd)?;
    // By the contract, 0 means no limit.
    let limit = match u64::try_from(request.timeout) {
        Ok(0) => None,
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let problem = format!("{} is negative", request.timeout);
            return Err(convert::invalid("timeout", problem).into());
        }
    };
    let container = service.container(&request.container_id)?;
    let output = ops::exec_sync::exec_sync(service, &container, command, limit).await?;
    Ok(ExecSyncResponse { stdout: output.stdout, stderr: output.stderr, exit_code: output.code })
}
