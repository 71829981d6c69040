//! The service Files, which is not part of the CRI: copies files into and out of containers.

use std::io::{self, Read};
use std::pin::Pin;

use crisp_copy::Owner;
use crisp_proto::crisp::v1::files_server::Files;
use crisp_proto::crisp::v1::{CopyInReply, CopyInRequest, CopyOutReply, CopyOutRequest};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use crate::RuntimeService;
use crate::convert;
use crate::error::RuntimeError;
use crate::ops::container_copy::{self, Client, Source, Target};

type Replies = Pin<Box<dyn Stream<Item = Result<CopyOutReply, Status>> + Send>>;

#[tonic::async_trait]
impl Files for RuntimeService {
    type CopyOutStream = Replies;

    async fn copy_out(&self, request: Request<CopyOutRequest>) -> Result<Response<Replies>, Status> {
        let CopyOutRequest { container_id, path, follow_link, without_mounts } = request.into_inner();
        let container = self.service().container(&container_id)?;
        let path = checked(path)?;
        let from = Source { path, follow_link, without_mounts };
        let pieces = container_copy::copy_out(self.service(), &container, from).await?;
        let replies = ReceiverStream::new(pieces).map(|piece| Ok(CopyOutReply { data: piece? }));
        Ok(Response::new(Box::pin(replies)))
    }

    async fn copy_in(
        &self,
        request: Request<Streaming<CopyInRequest>>,
    ) -> Result<Response<CopyInReply>, Status> {
        let mut pieces = request.into_inner();
        let empty = || Status::invalid_argument("the request says neither container nor path");
        let first = pieces.message().await?.ok_or_else(empty)?;
        let container = self.service().container(&first.container_id)?;
        let owner = if first.keep_owner { Owner::Kept } else { Owner::Root };
        let target = Target { path: checked(first.path)?, as_named: first.as_named, owner };
        let archive = move |client| Archive { pieces, client, piece: first.data, taken: 0 };
        let made = container_copy::copy_in(self.service(), &container, target, archive).await?;
        Ok(Response::new(CopyInReply { entries: made.entries, bytes: made.bytes }))
    }
}

fn checked(path: String) -> Result<String, RuntimeError> {
    if path.is_empty() {
        return Err(convert::invalid("path", "empty").into());
    }
    if path.contains('\0') { Err(convert::invalid("path", "holds a NUL byte").into()) } else { Ok(path) }
}

/// An archive that arrives in pieces.
struct Archive {
    pieces: Streaming<CopyInRequest>,
    client: Client,
    piece: Vec<u8>,
    taken: usize,
}

impl Read for Archive {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.piece.len() {
            let next = self.client.wait(self.pieces.message())?;
            let Some(next) = next.map_err(io::Error::other)? else { return Ok(0) };
            (self.piece, self.taken) = (next.data, 0);
        }
        let length = into.len().min(self.piece.len() - self.taken);
        into[..length].copy_from_slice(&self.piece[self.taken..][..length]);
        self.taken += length;
        Ok(length)
    }
}
