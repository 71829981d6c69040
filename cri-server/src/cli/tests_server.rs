//! A server for tests, whose replies the test chooses call by call.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};

use crisp_proto::runtime::v1::{ContainerStatusResponse, ListContainersResponse, ListPodSandboxResponse};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::Client;
use crate::config::ListenAddress;

/// The reply to one call.
pub enum Reply {
    Pods(ListPodSandboxResponse),
    Containers(ListContainersResponse),
    Container(Box<ContainerStatusResponse>),
    Refusal(Status),
}

type Replies = Arc<dyn Fn(&str) -> Reply + Send + Sync>;

/// A client of a server that uses `replies`, which gets the name of the method. The server ends with the
/// test's runtime.
pub async fn client(replies: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Client {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("socket");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let server = Server::builder().add_service(FakeServer(Arc::new(replies)));
    tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
    Client::connect(&ListenAddress::parse(&path.display().to_string()).unwrap()).await.unwrap()
}

#[derive(Clone)]
struct FakeServer(Replies);

impl NamedService for FakeServer {
    const NAME: &'static str = "runtime.v1.RuntimeService";
}

impl Service<http::Request<Body>> for FakeServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let reply = (self.0)(request.uri().path().rsplit('/').next().unwrap_or_default());
        Box::pin(async move {
            Ok(match reply {
                Reply::Pods(reply) => unary(request, reply).await,
                Reply::Containers(reply) => unary(request, reply).await,
                Reply::Container(reply) => unary(request, *reply).await,
                Reply::Refusal(status) => status.into_http(),
            })
        })
    }
}

async fn unary<M: prost::Message + Default + Clone + 'static>(
    request: http::Request<Body>,
    reply: M,
) -> http::Response<Body> {
    Grpc::new(ProstCodec::<M, ()>::default()).unary(Unary(reply), request).await
}

struct Unary<M>(M);

impl<M: Clone + Send + 'static> Service<Request<()>> for Unary<M> {
    type Response = Response<M>;
    type Error = Status;
    type Future = std::future::Ready<Result<Response<M>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        std::future::ready(Ok(Response::new(self.0.clone())))
    }
}
