//! gRPC over the unix socket.

use std::future::Future;
use std::time::Duration;

use crisp_proto::RPC_PATHS;
use crisp_proto::crisp::v1::layers_server::LayersServer;
use crisp_proto::crisp::v1::pulls_server::PullsServer;
use crisp_proto::runtime::v1::image_service_server::ImageServiceServer;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeServiceServer;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnixListenerStream;

use super::Server;

/// The longest message that a kubelet sends and accepts.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;
/// How long calls under way may take to end. Event streams have no end.
const FAREWELL: Duration = Duration::from_secs(3);

impl Server {
    /// Serves on `listener` until `stop` ends, then waits for the calls under way, for a limited time.
    ///
    /// # Errors
    /// The socket breaks.
    pub async fn serve(
        &self,
        listener: UnixListener,
        stop: impl Future<Output = ()> + Send,
    ) -> anyhow::Result<()> {
        let runtime = RuntimeServiceServer::new(self.runtime.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let images = ImageServiceServer::new(self.images.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let (leave, leaving) = oneshot::channel();
        let serving = tonic::transport::Server::builder()
            .layer(self.metrics.rpc_layer(RPC_PATHS))
            .add_service(runtime)
            .add_service(images)
            .add_service(PullsServer::new(self.images.clone()))
            .add_service(LayersServer::new(self.images.clone()))
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async {
                let _ = leaving.await;
            });
        tokio::pin!(serving);
        tokio::select! {
            result = &mut serving => return Ok(result?),
            () = stop => {}
        }
        let _ = leave.send(());
        match tokio::time::timeout(FAREWELL, serving).await {
            Ok(result) => Ok(result?),
            // What is still open are streams, which have no end of their own.
            Err(_) => Ok(()),
        }
    }
}
