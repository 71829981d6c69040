//! RemoveImage: a name takes only that name away, and the image with its last tag, as CRI-O and docker do;
//! an id takes the image away with all its names. kubelet's garbage collection gives ids. Removing what is
//! not there is no error.

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
        // Not there, or removed by another call meanwhile.
        Ok(_)
        | Err(RemoveError::Find(FindError::Unknown(_)))
        | Err(RemoveError::Store(StoreError::ImageMissing(_))) => Ok(RemoveImageResponse {}),
        Err(e) => Err(error::of_remove(&e)),
    }
}
