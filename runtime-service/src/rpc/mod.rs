//! The CRI RuntimeService as gRPC calls it. Each built RPC is a file here: convert the request, call the
//! operation, convert the result. The others are in `unimplemented.rs`.
//!
//! What answers from memory (lists, pod status) is not `async`: it cannot wait for an operation or a disk.

mod attach;
mod container_stats;
mod container_status;
mod containers;
mod create_container;
mod diagnosis;
mod exec;
mod exec_sync;
mod files;
mod get_container_events;
mod list_container_stats;
mod list_containers;
mod list_metric_descriptors;
mod list_pod_sandbox;
mod list_pod_sandbox_metrics;
mod list_pod_sandbox_stats;
mod messages;
mod pod_sandbox_stats;
mod pod_sandbox_status;
mod port_forward;
mod remove_container;
mod remove_pod_sandbox;
mod reopen_container_log;
mod reply;
mod run_pod_sandbox;
mod runtime_config;
mod start_container;
mod status;
mod stop_container;
mod stop_pod_sandbox;
mod stream_container_stats;
mod stream_containers;
mod stream_pod_sandbox_metrics;
mod stream_pod_sandbox_stats;
mod stream_pod_sandboxes;
mod unimplemented;
mod update_container_resources;
mod update_pod_sandbox_resources;
mod update_runtime_config;
mod version;

use crisp_proto::runtime::v1::runtime_service_server;
use crisp_proto::runtime::v1::*;
use tonic::Request;

use self::messages::MessageStream;
use self::reply::{GrpcResult, Reply, respond};
use crate::RuntimeService;
use crate::service_state::ServiceState;

#[tonic::async_trait]
impl runtime_service_server::RuntimeService for RuntimeService {
    async fn version(&self, request: Request<VersionRequest>) -> GrpcResult<VersionResponse> {
        respond(version::call(request.into_inner()))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<RunPodSandboxRequest>,
    ) -> GrpcResult<RunPodSandboxResponse> {
        respond(run_pod_sandbox::call(self.service(), request.into_inner()).await)
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> GrpcResult<StopPodSandboxResponse> {
        respond(stop_pod_sandbox::call(self.service(), request.into_inner()).await)
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> GrpcResult<RemovePodSandboxResponse> {
        respond(remove_pod_sandbox::call(self.service(), request.into_inner()).await)
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> GrpcResult<PodSandboxStatusResponse> {
        respond(pod_sandbox_status::call(self.service(), request.into_inner()))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> GrpcResult<ListPodSandboxResponse> {
        respond(list_pod_sandbox::call(self.service(), request.into_inner()))
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> GrpcResult<CreateContainerResponse> {
        respond(create_container::call(self.service(), request.into_inner()).await)
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> GrpcResult<StartContainerResponse> {
        respond(start_container::call(self.service(), request.into_inner()).await)
    }

    async fn stop_container(
        &self,
        request: Request<StopContainerRequest>,
    ) -> GrpcResult<StopContainerResponse> {
        respond(stop_container::call(self.service(), request.into_inner()).await)
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> GrpcResult<RemoveContainerResponse> {
        respond(remove_container::call(self.service(), request.into_inner()).await)
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> GrpcResult<ListContainersResponse> {
        respond(list_containers::call(self.service(), request.into_inner()))
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> GrpcResult<ContainerStatusResponse> {
        respond(container_status::call(self.service(), request.into_inner()).await)
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> GrpcResult<UpdateContainerResourcesResponse> {
        respond(update_container_resources::call(self.service(), request.into_inner()).await)
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> GrpcResult<ReopenContainerLogResponse> {
        respond(reopen_container_log::call(self.service(), request.into_inner()).await)
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> GrpcResult<ExecSyncResponse> {
        respond(exec_sync::call(self.service(), request.into_inner()).await)
    }

    async fn exec(&self, request: Request<ExecRequest>) -> GrpcResult<ExecResponse> {
        respond(exec::call(self.service(), request.into_inner()))
    }

    async fn attach(&self, request: Request<AttachRequest>) -> GrpcResult<AttachResponse> {
        respond(attach::call(self.service(), request.into_inner()))
    }

    async fn port_forward(&self, request: Request<PortForwardRequest>) -> GrpcResult<PortForwardResponse> {
        respond(port_forward::call(self.service(), request.into_inner()))
    }

    async fn container_stats(
        &self,
        request: Request<ContainerStatsRequest>,
    ) -> GrpcResult<ContainerStatsResponse> {
        respond(container_stats::call(self.service(), request.into_inner()).await)
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> GrpcResult<ListContainerStatsResponse> {
        respond(list_container_stats::call(self.service(), request.into_inner()).await)
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<PodSandboxStatsRequest>,
    ) -> GrpcResult<PodSandboxStatsResponse> {
        respond(pod_sandbox_stats::call(self.service(), request.into_inner()).await)
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> GrpcResult<ListPodSandboxStatsResponse> {
        respond(list_pod_sandbox_stats::call(self.service(), request.into_inner()).await)
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> GrpcResult<UpdateRuntimeConfigResponse> {
        respond(update_runtime_config::call(self.service(), request.into_inner()).await)
    }

    async fn status(&self, request: Request<StatusRequest>) -> GrpcResult<StatusResponse> {
        respond(status::call(self.service(), request.into_inner()).await)
    }

    async fn checkpoint_container(
        &self,
        _request: Request<CheckpointContainerRequest>,
    ) -> GrpcResult<CheckpointContainerResponse> {
        respond(unimplemented::checkpoint_container())
    }

    async fn checkpoint_pod(
        &self,
        _request: Request<CheckpointPodRequest>,
    ) -> GrpcResult<CheckpointPodResponse> {
        respond(unimplemented::checkpoint_pod())
    }

    async fn restore_pod(&self, _request: Request<RestorePodRequest>) -> GrpcResult<RestorePodResponse> {
        respond(unimplemented::restore_pod())
    }

    async fn list_metric_descriptors(
        &self,
        _request: Request<ListMetricDescriptorsRequest>,
    ) -> GrpcResult<ListMetricDescriptorsResponse> {
        respond(list_metric_descriptors::call())
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _request: Request<ListPodSandboxMetricsRequest>,
    ) -> GrpcResult<ListPodSandboxMetricsResponse> {
        respond(list_pod_sandbox_metrics::call(self.service()).await)
    }

    async fn runtime_config(
        &self,
        request: Request<RuntimeConfigRequest>,
    ) -> GrpcResult<RuntimeConfigResponse> {
        respond(runtime_config::call(self.service(), request.into_inner()))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> GrpcResult<UpdatePodSandboxResourcesResponse> {
        respond(update_pod_sandbox_resources::call(self.service(), request.into_inner()).await)
    }

    type StreamPodSandboxesStream = MessageStream<StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<StreamPodSandboxesRequest>,
    ) -> GrpcResult<Self::StreamPodSandboxesStream> {
        respond(stream_pod_sandboxes::call(self.service(), request.into_inner()))
    }

    type StreamContainersStream = MessageStream<StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<StreamContainersRequest>,
    ) -> GrpcResult<Self::StreamContainersStream> {
        respond(stream_containers::call(self.service(), request.into_inner()))
    }

    type StreamContainerStatsStream = MessageStream<StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<StreamContainerStatsRequest>,
    ) -> GrpcResult<Self::StreamContainerStatsStream> {
        respond(stream_container_stats::call(self.service(), request.into_inner()).await)
    }

    type StreamPodSandboxStatsStream = MessageStream<StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<StreamPodSandboxStatsRequest>,
    ) -> GrpcResult<Self::StreamPodSandboxStatsStream> {
        respond(stream_pod_sandbox_stats::call(self.service(), request.into_inner()).await)
    }

    type StreamPodSandboxMetricsStream = MessageStream<StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _request: Request<StreamPodSandboxMetricsRequest>,
    ) -> GrpcResult<Self::StreamPodSandboxMetricsStream> {
        respond(stream_pod_sandbox_metrics::call(self.service()).await)
    }

    type GetContainerEventsStream = MessageStream<ContainerEventResponse>;

    async fn get_container_events(
        &self,
        request: Request<GetEventsRequest>,
    ) -> GrpcResult<Self::GetContainerEventsStream> {
        respond(get_container_events::call(self.service(), request.into_inner()))
    }
}
