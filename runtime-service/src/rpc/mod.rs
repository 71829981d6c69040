//! The gRPC methods of the CRI RuntimeService. Each function below converts the request, calls the operation
//! in `ops` and converts the result; they are in files by subject. Methods that are not built are in
//! `unimplemented.rs`. `crisp_containers.rs` and `crisp_files.rs` are Crisp's own services.
//!
//! Methods that answer from memory (lists, pod status) are not `async`: they cannot wait for an operation or
//! a disk.

mod container;
mod crisp_containers;
mod crisp_files;
mod diagnosis;
mod exec_sync;
mod get_container_events;
mod messages;
mod pod_metrics;
mod pod_sandbox;
mod runtime;
mod stats;
mod streaming;
mod unimplemented;

use crisp_proto::runtime::v1::runtime_service_server;
use crisp_proto::runtime::v1::*;
use tonic::{Request, Response, Status};

use self::messages::MessageStream;
use crate::RuntimeService;
use crate::error::RuntimeError;
use crate::service_state::ServiceState;

/// The result of one RPC before it becomes a gRPC response or status.
type Reply<T> = Result<T, RuntimeError>;

/// The same in the form of gRPC.
type GrpcResult<T> = Result<Response<T>, Status>;

fn respond<T>(reply: Reply<T>) -> GrpcResult<T> {
    Ok(Response::new(reply?))
}

#[tonic::async_trait]
impl runtime_service_server::RuntimeService for RuntimeService {
    async fn version(&self, request: Request<VersionRequest>) -> GrpcResult<VersionResponse> {
        respond(runtime::version(request.into_inner()))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<RunPodSandboxRequest>,
    ) -> GrpcResult<RunPodSandboxResponse> {
        respond(pod_sandbox::run_pod_sandbox(self.service(), request.into_inner()).await)
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> GrpcResult<StopPodSandboxResponse> {
        respond(pod_sandbox::stop_pod_sandbox(self.service(), request.into_inner()).await)
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> GrpcResult<RemovePodSandboxResponse> {
        respond(pod_sandbox::remove_pod_sandbox(self.service(), request.into_inner()).await)
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> GrpcResult<PodSandboxStatusResponse> {
        respond(pod_sandbox::pod_sandbox_status(self.service(), request.into_inner()))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> GrpcResult<ListPodSandboxResponse> {
        respond(pod_sandbox::list_pod_sandbox(self.service(), request.into_inner()))
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> GrpcResult<CreateContainerResponse> {
        respond(container::create_container(self.service(), request.into_inner()).await)
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> GrpcResult<StartContainerResponse> {
        respond(container::start_container(self.service(), request.into_inner()).await)
    }

    async fn stop_container(
        &self,
        request: Request<StopContainerRequest>,
    ) -> GrpcResult<StopContainerResponse> {
        respond(container::stop_container(self.service(), request.into_inner()).await)
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> GrpcResult<RemoveContainerResponse> {
        respond(container::remove_container(self.service(), request.into_inner()).await)
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> GrpcResult<ListContainersResponse> {
        respond(container::list_containers(self.service(), request.into_inner()))
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> GrpcResult<ContainerStatusResponse> {
        respond(container::container_status(self.service(), request.into_inner()).await)
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> GrpcResult<UpdateContainerResourcesResponse> {
        respond(container::update_container_resources(self.service(), request.into_inner()).await)
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> GrpcResult<ReopenContainerLogResponse> {
        respond(container::reopen_container_log(self.service(), request.into_inner()).await)
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> GrpcResult<ExecSyncResponse> {
        respond(exec_sync::call(self.service(), request.into_inner()).await)
    }

    async fn exec(&self, request: Request<ExecRequest>) -> GrpcResult<ExecResponse> {
        respond(streaming::exec(self.service(), request.into_inner()))
    }

    async fn attach(&self, request: Request<AttachRequest>) -> GrpcResult<AttachResponse> {
        respond(streaming::attach(self.service(), request.into_inner()))
    }

    async fn port_forward(&self, request: Request<PortForwardRequest>) -> GrpcResult<PortForwardResponse> {
        respond(streaming::port_forward(self.service(), request.into_inner()))
    }

    async fn container_stats(
        &self,
        request: Request<ContainerStatsRequest>,
    ) -> GrpcResult<ContainerStatsResponse> {
        respond(stats::container_stats(self.service(), request.into_inner()).await)
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> GrpcResult<ListContainerStatsResponse> {
        respond(stats::list_container_stats(self.service(), request.into_inner()).await)
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<PodSandboxStatsRequest>,
    ) -> GrpcResult<PodSandboxStatsResponse> {
        respond(stats::pod_sandbox_stats(self.service(), request.into_inner()).await)
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> GrpcResult<ListPodSandboxStatsResponse> {
        respond(stats::list_pod_sandbox_stats(self.service(), request.into_inner()).await)
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> GrpcResult<UpdateRuntimeConfigResponse> {
        respond(runtime::update_runtime_config(self.service(), request.into_inner()).await)
    }

    async fn status(&self, request: Request<StatusRequest>) -> GrpcResult<StatusResponse> {
        respond(runtime::status(self.service(), request.into_inner()).await)
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
        respond(pod_metrics::list_metric_descriptors())
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _request: Request<ListPodSandboxMetricsRequest>,
    ) -> GrpcResult<ListPodSandboxMetricsResponse> {
        respond(pod_metrics::list_pod_sandbox_metrics(self.service()).await)
    }

    async fn runtime_config(
        &self,
        request: Request<RuntimeConfigRequest>,
    ) -> GrpcResult<RuntimeConfigResponse> {
        respond(runtime::runtime_config(self.service(), request.into_inner()))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> GrpcResult<UpdatePodSandboxResourcesResponse> {
        respond(pod_sandbox::update_pod_sandbox_resources(self.service(), request.into_inner()).await)
    }

    type StreamPodSandboxesStream = MessageStream<StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<StreamPodSandboxesRequest>,
    ) -> GrpcResult<Self::StreamPodSandboxesStream> {
        respond(pod_sandbox::stream_pod_sandboxes(self.service(), request.into_inner()))
    }

    type StreamContainersStream = MessageStream<StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<StreamContainersRequest>,
    ) -> GrpcResult<Self::StreamContainersStream> {
        respond(container::stream_containers(self.service(), request.into_inner()))
    }

    type StreamContainerStatsStream = MessageStream<StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<StreamContainerStatsRequest>,
    ) -> GrpcResult<Self::StreamContainerStatsStream> {
        respond(stats::stream_container_stats(self.service(), request.into_inner()).await)
    }

    type StreamPodSandboxStatsStream = MessageStream<StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<StreamPodSandboxStatsRequest>,
    ) -> GrpcResult<Self::StreamPodSandboxStatsStream> {
        respond(stats::stream_pod_sandbox_stats(self.service(), request.into_inner()).await)
    }

    type StreamPodSandboxMetricsStream = MessageStream<StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _request: Request<StreamPodSandboxMetricsRequest>,
    ) -> GrpcResult<Self::StreamPodSandboxMetricsStream> {
        respond(pod_metrics::stream_pod_sandbox_metrics(self.service()).await)
    }

    type GetContainerEventsStream = MessageStream<ContainerEventResponse>;

    async fn get_container_events(
        &self,
        request: Request<GetEventsRequest>,
    ) -> GrpcResult<Self::GetContainerEventsStream> {
        respond(get_container_events::call(self.service(), request.into_inner()))
    }
}
