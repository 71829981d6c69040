//! PodSandboxStats.

use std::sync::Arc;

use crisp_proto::runtime::v1::{PodSandboxStatsRequest, PodSandboxStatsResponse};

use super::{Core, Reply};
use crate::convert::figures;
use crate::stats;

pub(super) async fn call(core: &Arc<Core>, request: PodSandboxStatsRequest) -> Reply<PodSandboxStatsResponse> {
    let pod = core.pods.find(&request.pod_sandbox_id)?;
    let readings = stats::pods(core, vec![pod]).await;
    let mountpoint = core.writable_mountpoint();
    Ok(PodSandboxStatsResponse { stats: readings.first().map(|reading| figures::pod(reading, &mountpoint)) })
}
