//! PodSandboxStats.

use std::sync::Arc;

use crisp_proto::runtime::v1::{PodSandboxStatsRequest, PodSandboxStatsResponse};

use super::{Core, Reply};
use crate::convert::figures;
use crate::stats;

pub(super) async fn call(core: &Arc<Core>, request: PodSandboxStatsRequest) -> Reply<PodSandboxStatsResponse> {
    let pod = core.pods.find(&request.pod_sandbox_id)?;
    let reading = stats::pod(core, &pod).await;
    Ok(PodSandboxStatsResponse { stats: Some(figures::pod(&reading, &core.writable_mountpoint())) })
}
