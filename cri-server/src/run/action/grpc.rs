//! `grpc.health.v1.Health/Check`: https://github.com/grpc/grpc/blob/master/doc/health-checking.md.

use std::net::{IpAddr, SocketAddr};

use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;

/// Checks whether `service` is serving; the empty name stands for the whole server.
///
/// # Errors
/// A text for people.
pub async fn check(address: IpAddr, port: u16, service: &str) -> Result<(), String> {
    let address = SocketAddr::new(address, port);
    let failed = |error: &dyn std::fmt::Display| format!("gRPC health check of {address}: {error}");
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| failed(&error))?;
    let channel = endpoint.connect().await.map_err(|error| failed(&error))?;
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| failed(&error))?;
    let request = tonic::Request::new(HealthCheckRequest { service: service.to_owned() });
    let codec: ProstCodec<HealthCheckRequest, HealthCheckResponse> = ProstCodec::default();
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let reply = client.unary(request, path, codec).await.map_err(|status| failed(&status.message()))?;
    match reply.into_inner().status {
        SERVING => Ok(()),
        status => Err(failed(&format_args!("the status is {status}, not SERVING"))),
    }
}
