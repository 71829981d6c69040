//! RPCs and fields that are newer than the client's version of the contract, by their numbers in the CRI.
//!
//! A message is sent as the client's bytes followed by those of the new fields: a decoder of protobuf reads
//! both as one message.

use crisp_e2e::Client;
use k8s_cri::v1::{CreateContainerRequest, ImageSpec, LinuxContainerResources};
use prost::Message;
use prost::bytes::{Buf as _, BufMut as _};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Status, Streaming};

/// CreateContainerRequest, with the fields that the client does not have.
#[derive(Clone, PartialEq, Message)]
pub struct NewerCreate {
    #[prost(message, optional, tag = "2")]
    pub config: Option<NewerContainer>,
}

/// New fields of ContainerConfig.
#[derive(Clone, PartialEq, Message)]
pub struct NewerContainer {
    #[prost(message, repeated, tag = "7")]
    pub mounts: Vec<NewerMount>,
    #[prost(int32, tag = "18")]
    pub stop_signal: i32,
}

/// A whole Mount.
#[derive(Clone, PartialEq, Message)]
pub struct NewerMount {
    #[prost(string, tag = "1")]
    pub container_path: String,
    #[prost(string, tag = "2")]
    pub host_path: String,
    #[prost(bool, tag = "3")]
    pub readonly: bool,
    #[prost(message, optional, tag = "9")]
    pub image: Option<ImageSpec>,
    #[prost(string, tag = "10")]
    pub image_sub_path: String,
    #[prost(string, repeated, tag = "11")]
    pub mount_options: Vec<String>,
}

/// New fields of ContainerStatusResponse.
#[derive(Clone, PartialEq, Message)]
pub struct NewerStatusResponse {
    #[prost(message, optional, tag = "1")]
    pub status: Option<NewerStatus>,
}

/// New fields of ContainerStatus.
#[derive(Clone, PartialEq, Message)]
pub struct NewerStatus {
    #[prost(message, repeated, tag = "14")]
    pub mounts: Vec<NewerStatusMount>,
    #[prost(int32, tag = "19")]
    pub stop_signal: i32,
}

/// New fields of a Mount in a status.
#[derive(Clone, PartialEq, Message)]
pub struct NewerStatusMount {
    #[prost(message, optional, tag = "9")]
    pub image: Option<NewerImageSpec>,
}

/// New fields of ImageSpec.
#[derive(Clone, PartialEq, Message)]
pub struct NewerImageSpec {
    #[prost(string, tag = "1")]
    pub image: String,
    #[prost(string, tag = "20")]
    pub image_ref: String,
}

/// UpdatePodSandboxResourcesRequest.
#[derive(Clone, PartialEq, Message)]
pub struct UpdatePod {
    #[prost(string, tag = "1")]
    pub pod_sandbox_id: String,
    #[prost(message, optional, tag = "2")]
    pub overhead: Option<LinuxContainerResources>,
    #[prost(message, optional, tag = "3")]
    pub resources: Option<LinuxContainerResources>,
}

/// A response whose fields no test reads.
#[derive(Clone, PartialEq, Message)]
pub struct Nothing {}

/// New fields of StatusResponse.
#[derive(Clone, PartialEq, Message)]
pub struct NewerRuntimeStatus {
    #[prost(message, optional, tag = "4")]
    pub features: Option<NewerFeatures>,
}

/// RuntimeFeatures.
#[derive(Clone, PartialEq, Message)]
pub struct NewerFeatures {
    #[prost(bool, tag = "1")]
    pub supplemental_groups_policy: bool,
    #[prost(bool, tag = "2")]
    pub user_namespaces_host_network: bool,
    #[prost(bool, tag = "3")]
    pub mount_options: bool,
}

/// Creates a container; returns its id.
pub async fn create(
    client: &Client,
    request: &CreateContainerRequest,
    config: NewerContainer,
) -> Result<String, Status> {
    let mut bytes = request.encode_to_vec();
    bytes.extend(NewerCreate { config: Some(config) }.encode_to_vec());
    let reply: k8s_cri::v1::CreateContainerResponse = call(client, "CreateContainer", bytes).await?;
    Ok(reply.container_id)
}

/// Calls an RPC of the RuntimeService with the bytes of its request.
pub async fn call<M: Message + Default>(client: &Client, rpc: &str, request: Vec<u8>) -> Result<M, Status> {
    let mut replies = stream("RuntimeService", client, rpc, request).await?;
    let bytes = replies.message().await?.ok_or_else(|| Status::internal("no reply"))?;
    M::decode(&bytes[..]).map_err(|error| Status::internal(error.to_string()))
}

/// Calls an RPC that streams, and joins the responses to one message.
pub async fn joined<M: Message + Default>(
    client: &Client,
    service: &str,
    rpc: &str,
    request: Vec<u8>,
) -> Result<M, Status> {
    let mut replies = stream(service, client, rpc, request).await?;
    let mut all = Vec::new();
    while let Some(bytes) = replies.message().await? {
        all.extend(bytes);
    }
    M::decode(&all[..]).map_err(|error| Status::internal(error.to_string()))
}

async fn stream(
    service: &str,
    client: &Client,
    rpc: &str,
    request: Vec<u8>,
) -> Result<Streaming<Vec<u8>>, Status> {
    let mut grpc = tonic::client::Grpc::new(client.channel.clone());
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = format!("/runtime.v1.{service}/{rpc}").parse();
    let path = path.map_err(|_| Status::internal("no such path"))?;
    Ok(grpc.server_streaming(Request::new(request), path, Bytes).await?.into_inner())
}

/// Encodes and decodes messages as raw bytes.
#[derive(Clone, Copy)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}
