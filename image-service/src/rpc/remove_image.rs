//! RemoveImage: the image with all its names, whichever of them was given. Removing what is not there is
//! no error.

use crisp_proto::runtime::v1::{RemoveImageRequest, RemoveImageResponse};
use tonic::Status;

use super::{convert, error};
use crate::ImageService;
use crate::service::RemoveError;
use crate::store::{FindError, StoreError};

pub(super) async fn answer(
    service: &ImageService,
    request: RemoveImageRequest,
) -> Result<RemoveImageResponse, Status> {
    match service.remove(&convert::wanted(request.image)?).await {
        // Not there, or somebody else was faster.
        Ok(_)
        | Err(RemoveError::Find(FindError::Unknown(_)))
        | Err(RemoveError::Store(StoreError::ImageMissing(_))) => Ok(RemoveImageResponse {}),
        Err(e) => Err(error::of_remove(&e)),
    }
}
