//! PodSandboxStats.

use std::sync::Arc;

use crisp_proto::runtime::v1::{PodSandboxStatsRequest, PodSandboxStatsResponse};

use super::{Reply, ServiceState};
use crate::convert;
use crate::stats;

pub(super) async fn call(
    service: &Arc<ServiceState>,
    request: PodSandboxStatsRequest,
) -> Reply<PodSandboxStatsResponse> {
    let pod = service.pods.find(&request.pod_sandbox_id)?;
    let readings = stats::pods(service, vec![pod]).await;
    let mountpoint = service.writable_mountpoint();
    Ok(PodSandboxStatsResponse {
        stats: readings.first().map(|reading| convert::stats::pod(reading, &mountpoint)),
    })
}
