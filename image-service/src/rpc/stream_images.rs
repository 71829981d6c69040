//! StreamImages: ListImages in pieces that stay far below gRPC's limit for one message.

use crisp_proto::runtime::v1::{StreamImagesRequest, StreamImagesResponse};
use tonic::Status;
use tonic::codegen::tokio_stream;

use super::{Replies, convert, list_images};
use crate::store::Store;

/// Images in one reply. Even with a hundred names each they fit into a megabyte.
const PIECE: usize = 64;

pub(super) fn response(store: &Store, request: StreamImagesRequest) -> Result<Replies, Status> {
    let images = list_images::matching(store, convert::filtered(request.filter))?;
    let replies: Vec<_> = images
        .chunks(PIECE)
        .map(|piece| {
            Ok(StreamImagesResponse { images: piece.iter().map(|image| convert::image(image)).collect() })
        })
        .collect();
    Ok(Box::pin(tokio_stream::iter(replies)))
}
