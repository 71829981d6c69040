//! ListImages and StreamImages: from memory.

use std::sync::Arc;

use crisp_proto::runtime::v1::{
    ListImagesRequest, ListImagesResponse, StreamImagesRequest, StreamImagesResponse,
};
use tonic::Status;
use tonic::codegen::tokio_stream;

use super::{Replies, convert, error};
use crate::store::{FindError, Image, Store};

pub(super) fn response(store: &Store, request: ListImagesRequest) -> Result<ListImagesResponse, Status> {
    let images = matching(store, convert::filtered(request.filter))?;
    Ok(ListImagesResponse { images: images.iter().map(|image| convert::image(image)).collect() })
}

/// All images, or the one that the filter names; an unknown one is not an error. Sorted by id, so that two
/// responses can be compared.
pub(super) fn matching(store: &Store, filter: Option<String>) -> Result<Vec<Arc<Image>>, Status> {
    let mut images = match filter {
        None => store.list(),
        Some(text) => match store.find(&text) {
            Ok(image) => vec![image],
            Err(FindError::Unknown(_)) => Vec::new(),
            Err(e @ (FindError::Ambiguous { .. } | FindError::Invalid(_))) => return Err(error::of_find(&e)),
        },
    };
    images.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(images)
}

/// Images in one reply: with a hundred names each, they fit into a megabyte.
const PIECE: usize = 64;

/// StreamImages: the same in pieces that stay far below gRPC's limit for one message.
pub(super) fn stream(store: &Store, request: StreamImagesRequest) -> Result<Replies, Status> {
    let images = matching(store, convert::filtered(request.filter))?;
    let replies: Vec<_> = images
        .chunks(PIECE)
        .map(|piece| {
            Ok(StreamImagesResponse { images: piece.iter().map(|image| convert::image(image)).collect() })
        })
        .collect();
    Ok(Box::pin(tokio_stream::iter(replies)))
}
