//! The service Diagnosis, which is not part of the CRI: past events, operations under way, and the inventory.

use std::ops::ControlFlow;
use std::pin::Pin;
use std::time::Duration;

use crisp_proto::crisp::v1::diagnosis_server::Diagnosis;
use crisp_proto::crisp::v1::{
    InventoryReply, InventoryRequest, JournalReply, JournalRequest, ListOperationsReply,
    ListOperationsRequest,
};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::RuntimeService;
use crate::convert::diagnosis;
use crate::error::RuntimeError;
use crate::inventory;
use crate::pieces::{CLIENT, Pieces, Undelivered};

type Replies = Pin<Box<dyn Stream<Item = Result<JournalReply, Status>> + Send>>;

/// Entries of one message.
const PIECE: usize = 256;

#[tonic::async_trait]
impl Diagnosis for RuntimeService {
    type JournalStream = Replies;

    async fn journal(&self, request: Request<JournalRequest>) -> Result<Response<Replies>, Status> {
        let JournalRequest { since, until } = request.into_inner();
        self.journal().flush().await;
        let (pieces, replies) = Pieces::channel();
        let service = self.clone();
        tokio::task::spawn_blocking(move || {
            let (mut piece, mut undelivered) = (Vec::new(), None);
            let read = service.journal().read(|entry| {
                if entry.at < since || (until != 0 && entry.at > until) {
                    return ControlFlow::Continue(());
                }
                piece.push(diagnosis::entry(entry));
                if piece.len() < PIECE {
                    return ControlFlow::Continue(());
                }
                undelivered = pieces.send(Ok(JournalReply { entries: std::mem::take(&mut piece) })).err();
                if undelivered.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            pieces.end(match (undelivered, read) {
                (Some(Undelivered::Gone), _) => return,
                (Some(Undelivered::Slow), _) => Err(RuntimeError::SlowClient { after: CLIENT }.into()),
                (None, Ok(())) => Ok(JournalReply { entries: piece }),
                (None, Err(error)) => {
                    Err(Status::internal(format!("the journal of events cannot be read: {error}")))
                }
            });
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(replies))))
    }

    async fn operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsReply>, Status> {
        let longer_than = Duration::from_nanos(request.into_inner().longer_than_nanoseconds);
        let service = self.service();
        let running = service.metrics.operations().list(longer_than).into_iter();
        let operations = running.map(|info| diagnosis::running(service, info)).collect();
        Ok(Response::new(ListOperationsReply { operations }))
    }

    async fn inventory(
        &self,
        request: Request<InventoryRequest>,
    ) -> Result<Response<InventoryReply>, Status> {
        let service = self.service();
        let found = inventory::inventory(service, request.into_inner().remove_orphans).await;
        let found = found.map_err(|interrupted| Status::unavailable(interrupted.to_string()))?;
        let items = found.into_iter().map(|found| diagnosis::item(service, found)).collect();
        Ok(Response::new(InventoryReply { items }))
    }
}
