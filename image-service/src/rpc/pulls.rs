//! The service Pulls, which is not part of the CRI: a pull that reports progress, and cancellation.

use std::pin::Pin;

use crisp_proto::crisp::v1::pulls_server::Pulls;
use crisp_proto::crisp::v1::{
    CancelPullReply, CancelPullRequest, LayerProgress as WireLayer, LayerState as WireState, PullReply,
    PullRequest as WirePull,
};
use tokio::sync::{mpsc, watch};
use tonic::codegen::tokio_stream::Stream;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{error, pull_image};
use crate::ImageService;
use crate::pull::{LayerProgress, LayerState, PullProgress, PullRequest, PullStage};

type Replies = Pin<Box<dyn Stream<Item = Result<PullReply, Status>> + Send>>;

#[tonic::async_trait]
impl Pulls for ImageService {
    type PullStream = Replies;

    async fn pull(&self, request: Request<WirePull>) -> Result<Response<Replies>, Status> {
        let request = request.into_inner();
        let auth = request.auth.map(pull_image::auth);
        let pull = PullRequest { reference: request.image, auth, pod: None };
        // A queue of one: a slow client gets the newest state, not all that it missed.
        let (replies, stream) = mpsc::channel(1);
        tokio::spawn(follow(self.clone(), pull, replies));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn cancel_pull(
        &self,
        request: Request<CancelPullRequest>,
    ) -> Result<Response<CancelPullReply>, Status> {
        let image = request.into_inner().image;
        let pulls = self.cancel_pulls(&image).map_err(|e| Status::invalid_argument(e.to_string()))?;
        Ok(Response::new(CancelPullReply { cancelled: u32::try_from(pulls).unwrap_or(u32::MAX) }))
    }
}

async fn follow(service: ImageService, pull: PullRequest, replies: mpsc::Sender<Result<PullReply, Status>>) {
    let first =
        PullProgress { reference: pull.reference.clone(), stage: PullStage::Request, layers: Vec::new() };
    let (progress, mut changes) = watch::channel(first);
    let send = async {
        while changes.changed().await.is_ok() {
            let reply = reply(&changes.borrow_and_update());
            let _ = replies.send(Ok(reply)).await;
        }
        std::future::pending::<()>().await;
    };
    let pulled = tokio::select! {
        pulled = service.pull(&pull, Some(&progress)) => pulled,
        // The client has gone; the pull continues.
        () = replies.closed() => return,
        () = send => return,
    };
    let last = match pulled {
        Ok(id) => Ok(PullReply { image_ref: id.to_string(), ..reply(&progress.borrow()) }),
        Err(failure) => Err(error::of_pull(&failure)),
    };
    let _ = replies.send(last).await;
}

fn reply(progress: &PullProgress) -> PullReply {
    PullReply {
        stage: progress.stage.to_string(),
        layers: progress.layers.iter().map(layer).collect(),
        image_ref: String::new(),
    }
}

fn layer(layer: &LayerProgress) -> WireLayer {
    let state = match layer.state {
        LayerState::Waiting => WireState::LayerWaiting,
        LayerState::Receiving => WireState::LayerReceiving,
        LayerState::Unpacking => WireState::LayerUnpacking,
        LayerState::Done => WireState::LayerDone,
        LayerState::Present => WireState::LayerPresent,
    };
    WireLayer {
        digest: layer.digest.to_string(),
        total: layer.total,
        received: layer.received,
        state: state.into(),
    }
}
