//! The service Layers, which is not part of the CRI: checks unpacked layers.

use std::pin::Pin;

use crisp_proto::crisp::v1::layers_server::Layers;
use crisp_proto::crisp::v1::{CheckLayersReply, CheckLayersRequest, LayerCondition};
use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::Stream;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::error;
use crate::ImageService;
use crate::digest::DiffId;
use crate::store::{Condition, Image, StoreError};

type Replies = Pin<Box<dyn Stream<Item = Result<CheckLayersReply, Status>> + Send>>;

#[tonic::async_trait]
impl Layers for ImageService {
    type CheckStream = Replies;

    async fn check(&self, request: Request<CheckLayersRequest>) -> Result<Response<Replies>, Status> {
        let layers = wanted(self, &request.into_inner().images)?;
        let (replies, stream) = mpsc::channel(16);
        let service = self.clone();
        tokio::task::spawn_blocking(move || {
            for (diff, bytes) in layers {
                let checked = service.check_layer(&diff);
                // Removed since the list was made.
                if matches!(checked, Err(StoreError::LayerMissing(_))) {
                    continue;
                }
                // The client has gone.
                if replies.blocking_send(Ok(reply(&service, &diff, bytes, checked))).is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// The layers of some images, or all of them.
fn wanted(service: &ImageService, images: &[String]) -> Result<Vec<(DiffId, u64)>, Status> {
    let mut layers = service.store().layers();
    if !images.is_empty() {
        let found = images.iter().map(|image| service.find(image)).collect::<Result<Vec<_>, _>>();
        let found = found.map_err(|e| error::of_find(&e))?;
        layers.retain(|(diff, _)| found.iter().any(|image| image.lower.contains(diff)));
    }
    Ok(layers)
}

fn reply(
    service: &ImageService,
    diff: &DiffId,
    bytes: u64,
    checked: Result<Condition, StoreError>,
) -> CheckLayersReply {
    let (condition, reason) = match checked {
        Ok(Condition::Sound) => (LayerCondition::ConditionSound, String::new()),
        Ok(Condition::Damaged(why)) => (LayerCondition::ConditionDamaged, why),
        Ok(Condition::Unknown) => {
            let why = "an earlier release unpacked it and recorded no checksum".to_owned();
            (LayerCondition::ConditionUnknown, why)
        }
        Err(error) => (LayerCondition::ConditionUnchecked, error.to_string()),
    };
    let images = service.store().images_with(diff);
    CheckLayersReply {
        layer: diff.to_string(),
        condition: condition.into(),
        reason,
        images: images.iter().map(|image| name(image)).collect(),
        bytes,
    }
}

/// A name of the image that can be pulled, if there is one.
fn name(image: &Image) -> String {
    let names = image.repo_tags.first().or(image.repo_digests.first());
    names.cloned().unwrap_or_else(|| image.id.to_string())
}
