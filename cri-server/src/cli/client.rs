//! The connection to a server.

use anyhow::Context as _;
use crisp_proto::crisp::v1::layers_client::LayersClient;
use crisp_proto::crisp::v1::pulls_client::PullsClient;
use crisp_proto::runtime::v1::image_service_client::ImageServiceClient;
use crisp_proto::runtime::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint};

use crate::config::ListenAddress;
pub use crate::refused::refused;

/// A node with many pods has long lists.
const MAX_REPLY: usize = 64 * 1024 * 1024;

/// All services of one server.
#[derive(Clone)]
pub struct Client {
    /// Pods and containers.
    pub runtime: RuntimeServiceClient<Channel>,
    /// Images.
    pub images: ImageServiceClient<Channel>,
    /// Pulls with progress, where the server is Crisp.
    pub pulls: PullsClient<Channel>,
    /// Checks of layers, where the server is Crisp.
    pub layers: LayersClient<Channel>,
}

impl Client {
    /// Connects to the socket.
    ///
    /// # Errors
    /// No server listens there, or the user may not connect.
    pub async fn connect(listen: &ListenAddress) -> anyhow::Result<Self> {
        // The library's own error says no more than "transport error".
        std::os::unix::net::UnixStream::connect(listen.path()).with_context(|| {
            format!(
                "cannot reach a server at {listen}: is `crisp serve` running there? (--listen names another)"
            )
        })?;
        let channel = Endpoint::from_shared(listen.to_string())?
            .connect()
            .await
            .with_context(|| format!("cannot speak gRPC to {listen}"))?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_REPLY),
            images: ImageServiceClient::new(channel.clone()).max_decoding_message_size(MAX_REPLY),
            pulls: PullsClient::new(channel.clone()),
            layers: LayersClient::new(channel),
        })
    }
}
