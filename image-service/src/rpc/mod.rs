//! CRI's ImageService: each RPC in the file of its name. Messages are converted here and in [`convert`]; the
//! layers below have no protobuf types.

mod convert;
mod error;
mod image_fs_info;
mod image_status;
mod images;
mod layers;
mod list_images;
mod pull_image;
mod pulls;
mod remove_image;

use std::pin::Pin;

use crisp_proto::runtime::v1::image_service_server::ImageService as Contract;
use crisp_proto::runtime::v1::{
    ImageFsInfoRequest, ImageFsInfoResponse, ImageStatusRequest, ImageStatusResponse, ListImagesRequest,
    ListImagesResponse, PullImageRequest, PullImageResponse, RemoveImageRequest, RemoveImageResponse,
    StreamImagesRequest, StreamImagesResponse,
};
use tonic::codegen::tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::ImageService;

/// Replies of StreamImages, ready to be sent.
type Replies = Pin<Box<dyn Stream<Item = Result<StreamImagesResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Contract for ImageService {
    type StreamImagesStream = Replies;

    async fn list_images(
        &self,
        request: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        Ok(Response::new(list_images::response(self.store(), request.into_inner())?))
    }

    async fn stream_images(
        &self,
        request: Request<StreamImagesRequest>,
    ) -> Result<Response<Replies>, Status> {
        Ok(Response::new(list_images::stream(self.store(), request.into_inner())?))
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Result<Response<ImageStatusResponse>, Status> {
        Ok(Response::new(image_status::response(self.store(), request.into_inner())?))
    }

    async fn pull_image(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<PullImageResponse>, Status> {
        Ok(Response::new(pull_image::response(self, request.into_inner()).await?))
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        Ok(Response::new(remove_image::response(self, request.into_inner()).await?))
    }

    async fn image_fs_info(
        &self,
        _request: Request<ImageFsInfoRequest>,
    ) -> Result<Response<ImageFsInfoResponse>, Status> {
        Ok(Response::new(image_fs_info::response(self.store())))
    }
}
