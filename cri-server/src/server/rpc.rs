//! Serves gRPC on the unix socket.

use std::future::Future;
use std::io;
use std::time::Duration;

use crisp_image_service::ImageService;
use crisp_proto::crisp::v1::containers_server::ContainersServer;
use crisp_proto::crisp::v1::diagnosis_server::DiagnosisServer;
use crisp_proto::crisp::v1::files_server::FilesServer;
use crisp_proto::crisp::v1::images_server::ImagesServer;
use crisp_proto::crisp::v1::layers_server::LayersServer;
use crisp_proto::crisp::v1::log_server::LogServer;
use crisp_proto::crisp::v1::networks_server::NetworksServer;
use crisp_proto::crisp::v1::pulls_server::PullsServer;
use crisp_proto::crisp::v1::standalone_server::StandaloneServer;
use crisp_proto::runtime::v1::image_service_server::ImageServiceServer;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeServiceServer;
use crisp_proto::{RPC_PATHS, STREAM_PATHS};
use crisp_runtime_service::RuntimeService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic_health::ServingStatus;

use super::Server;
use super::deadline::Deadline;
use super::log_service::LogService;
use super::networks::NetworksService;
use crate::run::supervise::StandaloneService;

/// The limit for messages that kubelet uses too.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;
/// Time limit for calls under way to end. Event streams never end by themselves.
const FAREWELL: Duration = Duration::from_secs(3);

impl Server {
    /// Serves on `listener` until `stop` ends, then waits a limited time for the calls under way. The server
    /// of a `crisp run` supervises no pods, because it ends with its own, and its log is on the user's terminal.
    ///
    /// # Errors
    /// The socket fails.
    pub async fn serve(
        &self,
        listener: UnixListener,
        standalone: Option<StandaloneService>,
        log: Option<LogService>,
        stop: impl Future<Output = ()> + Send,
    ) -> anyhow::Result<()> {
        let runtime = RuntimeServiceServer::new(self.runtime.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let images = ImageServiceServer::new(self.images.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<RuntimeServiceServer<RuntimeService>>().await;
        health.set_serving::<ImageServiceServer<ImageService>>().await;
        let (leave, leaving) = oneshot::channel();
        let serving = tonic::transport::Server::builder()
            .layer(self.metrics.rpc_layer(RPC_PATHS, STREAM_PATHS))
            .layer(tower_layer::layer_fn(Deadline))
            .add_service(runtime)
            .add_service(images)
            .add_service(health_service)
            .add_service(PullsServer::new(self.images.clone()))
            .add_service(ImagesServer::new(self.images.clone()))
            .add_service(LayersServer::new(self.images.clone()))
            .add_service(ContainersServer::new(self.runtime.clone()))
            .add_service(DiagnosisServer::new(self.runtime.clone()))
            .add_service(FilesServer::new(self.runtime.clone()))
            .add_service(NetworksServer::new(NetworksService(self.pods.clone())))
            .add_optional_service(standalone.map(standalone_server))
            .add_optional_service(log.map(LogServer::new))
            .serve_with_incoming_shutdown(connections(listener), async {
                let _ = leaving.await;
            });
        tokio::pin!(serving);
        tokio::select! {
            result = &mut serving => return Ok(result?),
            () = stop => {}
        }
        health.set_service_status("", ServingStatus::NotServing).await;
        health.set_not_serving::<RuntimeServiceServer<RuntimeService>>().await;
        health.set_not_serving::<ImageServiceServer<ImageService>>().await;
        let _ = leave.send(());
        match tokio::time::timeout(FAREWELL, serving).await {
            Ok(result) => Ok(result?),
            // The calls that are still open are streams without an end.
            Err(_) => Ok(()),
        }
    }
}

fn standalone_server(service: StandaloneService) -> StandaloneServer<StandaloneService> {
    StandaloneServer::new(service).max_decoding_message_size(MAX_MESSAGE)
}

/// Accepts connections. A failed accept is not an item of the stream: tonic would retry at once.
fn connections(listener: UnixListener) -> ReceiverStream<io::Result<UnixStream>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = sender.closed() => return,
                (stream, _) = crisp_metrics::accept("gRPC", || listener.accept()) => {
                    // Fails when the server has ended.
                    let _ = sender.send(Ok(stream)).await;
                }
            }
        }
    });
    ReceiverStream::new(receiver)
}
