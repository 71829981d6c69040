//! ListImages: from memory.

use std::sync::Arc;

use crisp_proto::runtime::v1::{ListImagesRequest, ListImagesResponse};
use tonic::Status;

use super::{convert, error};
use crate::store::{FindError, Image, Store};

pub(super) fn response(store: &Store, request: ListImagesRequest) -> Result<ListImagesResponse, Status> {
    let images = matching(store, convert::filtered(request.filter))?;
    Ok(ListImagesResponse { images: images.iter().map(|image| convert::image(image)).collect() })
}

/// All images, or the one that the filter means; an unknown one is no error. Sorted by id, so that two
/// answers can be compared.
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
