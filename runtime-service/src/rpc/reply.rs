//! Results of RPCs.

use tonic::{Response, Status};

use crate::error::RuntimeError;

/// The result of one RPC before it becomes a gRPC response or status.
pub(super) type Reply<T> = Result<T, RuntimeError>;

/// The same as gRPC sends it.
pub(super) type GrpcResult<T> = Result<Response<T>, Status>;

pub(super) fn respond<T>(reply: Reply<T>) -> GrpcResult<T> {
    Ok(Response::new(reply?))
}
