//! Stats of containers and pods: single, as a list and as a stream.

use std::sync::Arc;

use crisp_proto::runtime::v1::{
    ContainerStats, ContainerStatsRequest, ContainerStatsResponse, ListContainerStatsRequest,
    ListContainerStatsResponse, ListPodSandboxStatsRequest, ListPodSandboxStatsResponse, PodSandboxStats,
    PodSandboxStatsRequest, PodSandboxStatsResponse, StreamContainerStatsRequest,
    StreamContainerStatsResponse, StreamPodSandboxStatsRequest, StreamPodSandboxStatsResponse,
};
use crisp_sandbox::PodState;

use super::messages::{MessageStream, in_messages};
use super::{Reply, ServiceState};
use crate::filter::Filter;
use crate::{convert, stats};

/// ContainerStats.
pub(super) async fn container_stats(
    service: &Arc<ServiceState>,
    request: ContainerStatsRequest,
) -> Reply<ContainerStatsResponse> {
    let container = service.container(&request.container_id)?;
    let readings = stats::containers(service, vec![container]).await;
    let mountpoint = service.writable_mountpoint();
    Ok(ContainerStatsResponse {
        stats: readings.first().map(|reading| convert::stats::container(reading, &mountpoint)),
    })
}

/// ListContainerStats.
pub(super) async fn list_container_stats(
    service: &Arc<ServiceState>,
    request: ListContainerStatsRequest,
) -> Reply<ListContainerStatsResponse> {
    Ok(ListContainerStatsResponse { stats: all_containers(service, &Filter::from(request.filter)).await })
}

/// Reads every container that matches `filter`.
async fn all_containers(service: &Arc<ServiceState>, filter: &Filter) -> Vec<ContainerStats> {
    let mountpoint = service.writable_mountpoint();
    let readings = stats::containers(service, filter.containers(service)).await;
    readings.iter().map(|reading| convert::stats::container(reading, &mountpoint)).collect()
}

/// StreamContainerStats: the result of ListContainerStats in several messages, for long lists.
pub(super) async fn stream_container_stats(
    service: &Arc<ServiceState>,
    request: StreamContainerStatsRequest,
) -> Reply<MessageStream<StreamContainerStatsResponse>> {
    let all = all_containers(service, &Filter::from(request.filter)).await;
    Ok(in_messages(all, |container_stats| StreamContainerStatsResponse { container_stats }))
}

/// PodSandboxStats.
pub(super) async fn pod_sandbox_stats(
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

/// ListPodSandboxStats: stats of the pods that are ready.
pub(super) async fn list_pod_sandbox_stats(
    service: &Arc<ServiceState>,
    request: ListPodSandboxStatsRequest,
) -> Reply<ListPodSandboxStatsResponse> {
    Ok(ListPodSandboxStatsResponse { stats: all_pods(service, &Filter::from(request.filter)).await })
}

/// Reads every ready pod that matches `filter`.
async fn all_pods(service: &Arc<ServiceState>, filter: &Filter) -> Vec<PodSandboxStats> {
    let mountpoint = service.writable_mountpoint();
    let mut ready = filter.pods(service);
    ready.retain(|pod| pod.status().state == PodState::Ready);
    stats::pods(service, ready)
        .await
        .iter()
        .map(|reading| convert::stats::pod(reading, &mountpoint))
        .collect()
}

/// StreamPodSandboxStats: the result of ListPodSandboxStats in several messages, for long lists.
pub(super) async fn stream_pod_sandbox_stats(
    service: &Arc<ServiceState>,
    request: StreamPodSandboxStatsRequest,
) -> Reply<MessageStream<StreamPodSandboxStatsResponse>> {
    let all = all_pods(service, &Filter::from(request.filter)).await;
    Ok(in_messages(all, |pod_sandbox_stats| StreamPodSandboxStatsResponse { pod_sandbox_stats }))
}
