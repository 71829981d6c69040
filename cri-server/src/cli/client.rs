//! The connection to a server.

use anyhow::Context as _;
use crisp_proto::crisp::v1::containers_client::ContainersClient;
use crisp_proto::crisp::v1::diagnosis_client::DiagnosisClient;
use crisp_proto::crisp::v1::files_client::FilesClient;
use crisp_proto::crisp::v1::images_client::ImagesClient;
use crisp_proto::crisp::v1::layers_client::LayersClient;
use crisp_proto::crisp::v1::log_client::LogClient;
use crisp_proto::crisp::v1::networks_client::NetworksClient;
use crisp_proto::crisp::v1::pulls_client::PullsClient;
use crisp_proto::crisp::v1::standalone_client::StandaloneClient;
use crisp_proto::runtime::v1::StatusRequest;
use crisp_proto::runtime::v1::image_service_client::ImageServiceClient;
use crisp_proto::runtime::v1::runtime_service_client::RuntimeServiceClient;
use crisp_streaming::client::Endpoint;
use tonic::transport::{self, Channel};

use crate::config::ListenAddress;
pub use crate::rpc_error::refused;

/// A node with many pods has long lists.
const MAX_REPLY: usize = 64 * 1024 * 1024;

/// All services of one server.
#[derive(Clone)]
pub struct Client {
    /// Pods and containers.
    pub runtime: RuntimeServiceClient<Channel>,
    /// Images.
    pub images: ImageServiceClient<Channel>,
    /// Names of images, and images as files, where the server is Crisp.
    pub store: ImagesClient<Channel>,
    /// Pulls with progress, where the server is Crisp.
    pub pulls: PullsClient<Channel>,
    /// Checks of layers, where the server is Crisp.
    pub layers: LayersClient<Channel>,
    /// Files of containers, where the server is Crisp.
    pub files: FilesClient<Channel>,
    /// Operations on containers that people use, where the server is Crisp.
    pub containers: ContainersClient<Channel>,
    /// The journal and the operations under way, where the server is Crisp.
    pub diagnosis: DiagnosisClient<Channel>,
    /// Networks by name, where the server is Crisp.
    pub networks: NetworksClient<Channel>,
    /// The server's log, where it is Crisp.
    pub log: LogClient<Channel>,
    /// Pods that the server supervises by itself, where it is Crisp.
    pub standalone: StandaloneClient<Channel>,
}

impl Client {
    /// Connects to the socket.
    ///
    /// # Errors
    /// No server listens there, or the user may not connect.
    pub async fn connect(listen: &ListenAddress) -> anyhow::Result<Self> {
        // The library's own error says no more than "transport error".
        if let Err(error) = std::os::unix::net::UnixStream::connect(listen.path()) {
            let advice = unreachable(error.kind());
            return Err(error).with_context(|| format!("cannot reach a server at {listen}: {advice}"));
        }
        let channel = transport::Endpoint::from_shared(listen.to_string())?
            .connect()
            .await
            .with_context(|| format!("cannot speak gRPC to {listen}"))?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_REPLY),
            images: ImageServiceClient::new(channel.clone()).max_decoding_message_size(MAX_REPLY),
            store: ImagesClient::new(channel.clone()),
            pulls: PullsClient::new(channel.clone()),
            layers: LayersClient::new(channel.clone()),
            files: FilesClient::new(channel.clone()),
            containers: ContainersClient::new(channel.clone()).max_decoding_message_size(MAX_REPLY),
            diagnosis: DiagnosisClient::new(channel.clone()).max_decoding_message_size(MAX_REPLY),
            networks: NetworksClient::new(channel.clone()),
            log: LogClient::new(channel.clone()),
            standalone: StandaloneClient::new(channel),
        })
    }
}

/// Advice for a server that cannot be reached.
fn unreachable(kind: std::io::ErrorKind) -> &'static str {
    match kind {
        std::io::ErrorKind::PermissionDenied => "its socket is for root: use sudo",
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
            "is `crisp serve` running there? Start one as root by `crisp serve --network built-in`; --listen or \
             CONTAINER_RUNTIME_ENDPOINT names another"
        }
        _ => "--listen or CONTAINER_RUNTIME_ENDPOINT names another",
    }
}

impl Client {
    /// The endpoint of a streaming session, by the URL that the server gave for it. The server sends its
    /// certificate over its own socket.
    ///
    /// # Errors
    /// A server with TLS that sends no certificate.
    pub async fn endpoint(&mut self, url: &str) -> anyhow::Result<Endpoint> {
        let endpoint = Endpoint::from(url);
        if !url.starts_with("https:") {
            return Ok(endpoint);
        }
        let status = self.runtime.status(StatusRequest { verbose: true }).await.map_err(refused)?;
        let status = status.into_inner();
        let certificate = status.info.get("streamCertificate").context(
            "the server does not say which certificate it has for streams: is it older than this program?",
        )?;
        Ok(endpoint.with_certificate(certificate)?)
    }
}
