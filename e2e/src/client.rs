//! The k8s-cri crate's clients on a unix socket.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{ListPodSandboxRequest, RemovePodSandboxRequest, StopPodSandboxRequest};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::Result;

/// Both services of one runtime.
#[derive(Debug, Clone)]
pub struct Client {
    /// The channel that both use.
    pub channel: Channel,
    pub runtime: RuntimeServiceClient<Channel>,
    pub images: ImageServiceClient<Channel>,
}

impl Client {
    /// Connects to a runtime's socket.
    ///
    /// # Errors
    /// When no server listens there.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let socket: PathBuf = socket.to_owned();
        let connect = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector(connect).await?;
        Ok(Self {
            channel: channel.clone(),
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(64 << 20),
            images: ImageServiceClient::new(channel).max_decoding_message_size(64 << 20),
        })
    }

    /// Stops and removes all pods, and returns their ids.
    ///
    /// # Errors
    /// The runtime's error.
    pub async fn remove_pods(&mut self) -> Result<Vec<String>> {
        let list = self.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?;
        let ids: Vec<String> = list.into_inner().items.into_iter().map(|pod| pod.id).collect();
        for id in &ids {
            let pod_sandbox_id = id.clone();
            self.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id }).await?;
            let pod_sandbox_id = id.clone();
            self.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id }).await?;
        }
        Ok(ids)
    }
}
