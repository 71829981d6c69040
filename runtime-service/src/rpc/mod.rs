//! The RPCs, one file each: convert, call, convert back.

use std::pin::Pin;
use std::sync::Arc;

use crisp_proto::runtime::v1 as proto;
use crisp_proto::runtime::v1::runtime_service_server;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::RuntimeService;
use crate::error::RuntimeError;
use crate::service_state::ServiceState;

/// What a file here answers.
type Reply<T> = Result<T, RuntimeError>;

/// A stream of messages.
type Parts<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Items per message of a streamed list: far below gRPC's 4 MiB even with long labels.
const PART: usize = 200;

/// Cuts a list into messages. An empty list is one empty message, so that a client sees that it was answered.
fn in_parts<I, M>(items: Vec<I>, message: fn(Vec<I>) -> M) -> Parts<M>
where
    I: Send + 'static,
    M: Send + 'static,
{
    let mut messages = Vec::new();
    let mut items = items.into_iter().peekable();
    loop {
        messages.push(Ok(message(items.by_ref().take(PART).collect())));
        if items.peek().is_none() {
            break;
        }
    }
    Box::pin(tokio_stream::iter(messages))
}

/// Declares the files and wires each to its method.
macro_rules! rpcs {
    (
        unary { $($file:ident($request:ident) -> $response:ident;)* }
        streams { $($stream:ident($stream_request:ident) -> $part:ident as $name:ident;)* }
    ) => {
        $(mod $file;)*
        $(mod $stream;)*

        #[tonic::async_trait]
        impl runtime_service_server::RuntimeService for RuntimeService {
            $(
                async fn $file(
                    &self,
                    request: Request<proto::$request>,
                ) -> Result<Response<proto::$response>, Status> {
                    let service: &Arc<ServiceState> = self.service();
                    Ok(Response::new($file::call(service, request.into_inner()).await?))
                }
            )*
            $(
                type $name = Parts<proto::$part>;

                async fn $stream(
                    &self,
                    request: Request<proto::$stream_request>,
                ) -> Result<Response<Self::$name>, Status> {
                    let service: &Arc<ServiceState> = self.service();
                    Ok(Response::new($stream::call(service, request.into_inner()).await?))
                }
            )*
        }
    };
}

rpcs! {
    unary {
        version(VersionRequest) -> VersionResponse;
        run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse;
        stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse;
        remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse;
        pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse;
        list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse;
        create_container(CreateContainerRequest) -> CreateContainerResponse;
        start_container(StartContainerRequest) -> StartContainerResponse;
        stop_container(StopContainerRequest) -> StopContainerResponse;
        remove_container(RemoveContainerRequest) -> RemoveContainerResponse;
        list_containers(ListContainersRequest) -> ListContainersResponse;
        container_status(ContainerStatusRequest) -> ContainerStatusResponse;
        update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse;
        reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
        exec_sync(ExecSyncRequest) -> ExecSyncResponse;
        exec(ExecRequest) -> ExecResponse;
        attach(AttachRequest) -> AttachResponse;
        port_forward(PortForwardRequest) -> PortForwardResponse;
        container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
        list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse;
        pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse;
        list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse;
        update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse;
        status(StatusRequest) -> StatusResponse;
        checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse;
        checkpoint_pod(CheckpointPodRequest) -> CheckpointPodResponse;
        restore_pod(RestorePodRequest) -> RestorePodResponse;
        list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse;
        list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse;
        runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse;
        update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse;
    }
    streams {
        stream_pod_sandboxes(StreamPodSandboxesRequest) -> StreamPodSandboxesResponse as StreamPodSandboxesStream;
        stream_containers(StreamContainersRequest) -> StreamContainersResponse as StreamContainersStream;
        stream_container_stats(StreamContainerStatsRequest) -> StreamContainerStatsResponse as StreamContainerStatsStream;
        stream_pod_sandbox_stats(StreamPodSandboxStatsRequest) -> StreamPodSandboxStatsResponse as StreamPodSandboxStatsStream;
        get_container_events(GetEventsRequest) -> ContainerEventResponse as GetContainerEventsStream;
        stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest) -> StreamPodSandboxMetricsResponse as StreamPodSandboxMetricsStream;
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    #[tokio::test]
    async fn lists_are_cut_without_loss() {
        for length in [0, 1, PART, PART + 1, 3 * PART] {
            let mut parts = in_parts((0..length).collect(), |part: Vec<usize>| part);
            let mut all = Vec::new();
            let mut messages = 0;
            while let Some(part) = parts.next().await {
                all.extend(part.unwrap());
                messages += 1;
            }
            assert_eq!(all, (0..length).collect::<Vec<_>>());
            assert_eq!(messages, length.div_ceil(PART).max(1));
        }
    }
}
