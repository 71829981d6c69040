//! The connection to a server.

use std::io::{Error, ErrorKind};
use std::path::Path;
use std::time::Duration;

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
use tokio::net::UnixStream;
use tokio::time::Instant;
use tonic::transport::{self, Channel};

use crate::config::ListenAddress;
pub use crate::rpc_error::refused;

/// A node with many pods has long lists.
pub const MAX_REPLY: usize = 64 * 1024 * 1024;

/// Time limit for a server to accept a connection: its queue of connections is full when it is stopped for long.
const ACCEPT: Duration = Duration::from_secs(10);
/// Pause between two tries to get into the queue.
const AGAIN: Duration = Duration::from_millis(50);

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
    /// No server listens there, it accepts no connection in time, or the user may not connect.
    pub async fn connect(listen: &ListenAddress) -> anyhow::Result<Self> {
        // The library's own error says no more than "transport error".
        if let Err(error) = reach(listen.path()).await {
            let advice = unreachable(error.kind());
            return Err(error).with_context(|| format!("cannot reach a server at {listen}: {advice}"));
        }
        let channel = transport::Endpoint::from_shared(listen.to_string())?
            .connect_timeout(ACCEPT)
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
            standalone: StandaloneClient::new(channel).max_decoding_message_size(MAX_REPLY),
        })
    }
}

/// Makes one connection. connect(2) itself would wait for a server with a full queue without end.
///
/// # Errors
/// No server listens there, or it accepts no connection in time.
pub async fn reach(socket: &Path) -> Result<(), Error> {
    let deadline = Instant::now() + ACCEPT;
    loop {
        match UnixStream::connect(socket).await {
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
            Err(_) if Instant::now() >= deadline => {
                return Err(Error::new(ErrorKind::TimedOut, "it accepts no connection"));
            }
            Err(_) => tokio::time::sleep(AGAIN).await,
            Ok(_) => return Ok(()),
        }
    }
}

/// Advice for a server that cannot be reached.
fn unreachable(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::PermissionDenied => "its socket is for root: use sudo",
        ErrorKind::TimedOut => "its process is stopped or does not get on",
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
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

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_stopped_for_long_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("crisp.sock");
        let stopped =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        bind(&stopped, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&stopped, 1).unwrap();
        let mut queue = Vec::new();
        while let Ok(connection) = UnixStream::connect(&path).await {
            queue.push(connection);
        }
        let address = ListenAddress::parse(&path.display().to_string()).unwrap();
        let Err(error) = Client::connect(&address).await else { panic!("its queue is full") };
        let text = format!("{error:#}");
        assert!(text.contains("is stopped") && text.contains("accepts no connection"), "{text}");

        // There is room in the queue before the time is over.
        let (reached, ()) = tokio::join!(reach(&path), async {
            tokio::time::sleep(ACCEPT / 2).await;
            drop(rustix::net::accept(&stopped).unwrap());
        });
        reached.unwrap();
    }
}
