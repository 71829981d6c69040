//! RemoveImage: a name only removes that name, and the image with its last tag, as in CRI-O and docker; an id
//! removes the image with all its names. kubelet's garbage collection uses ids. Removing an unknown image is
//! not an error.

use crisp_proto::runtime::v1::{RemoveImageRequest, RemoveImageResponse};
use tonic::Status;

use super::{convert, error};
use crate::ImageService;
use crate::service::RemoveError;
use crate::store::{FindError, StoreError};

pub(super) async fn response(
    service: &ImageService,
    request: RemoveImageRequest,
) -> Result<RemoveImageResponse, Status> {
    match service.remove(&convert::wanted(request.image)?).await {
        // It does not exist, or was removed by another call meanwhile.
        Ok(_)
        | Err(RemoveError::Find(FindError::Unknown(_)))
        | Err(RemoveError::Store(StoreError::ImageMissing(_))) => Ok(RemoveImageResponse {}),
        Err(e) => Err(error::of_remove(&e)),
    }
}
