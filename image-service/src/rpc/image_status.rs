//! ImageStatus: from memory. For an unknown image the response has no image, as the contract requires.

use std::collections::{BTreeMap, HashMap};

use crisp_proto::runtime::v1::{ImageStatusRequest, ImageStatusResponse};
use tonic::Status;

use super::{convert, error};
use crate::store::{FindError, Image, Store};

pub(super) fn response(store: &Store, request: ImageStatusRequest) -> Result<ImageStatusResponse, Status> {
    match store.find(&convert::wanted(request.image)?) {
        Ok(image) => Ok(ImageStatusResponse {
            image: Some(convert::image(&image)),
            info: if request.verbose { info(store, &image)? } else { BTreeMap::new() },
        }),
        Err(FindError::Unknown(_)) => Ok(ImageStatusResponse::default()),
        Err(e @ (FindError::Ambiguous { .. } | FindError::Invalid(_))) => Err(error::of_find(&e)),
    }
}

/// One JSON document under `info`, where crictl expects it.
fn info(store: &Store, image: &Image) -> Result<BTreeMap<String, String>, Status> {
    let sizes: HashMap<_, _> = store.layers().into_iter().collect();
    let sizes: Vec<u64> =
        image.diff_ids.iter().map(|diff| sizes.get(diff).copied().unwrap_or_default()).collect();
    let info = serde_json::json!({
        "imageSpec": image.config,
        "manifest": image.manifest,
        "layers": image.diff_ids,
        "layerSizes": sizes,
        "pulledAt": image.pulled_at,
    });
    let text = serde_json::to_string(&info)
        .map_err(|e| Status::internal(format!("image {}: its configuration: {e}", image.id)))?;
    Ok(BTreeMap::from([("info".to_owned(), text)]))
}
