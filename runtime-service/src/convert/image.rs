//! Converts references to images.

use crisp_proto::runtime::v1 as proto;

use super::{ConvertError, not_empty, texts, unsupported};
use crate::container::config::ImageRequest;

pub(super) fn request(at: &str, spec: proto::ImageSpec) -> Result<ImageRequest, ConvertError> {
    if !matches!(spec.runtime_handler.as_str(), "" | super::pod::HANDLER) {
        return Err(unsupported(format!("{at}.runtime_handler"), format!(": {:?}", spec.runtime_handler)));
    }
    Ok(ImageRequest {
        image: not_empty(&format!("{at}.image"), spec.image)?,
        user_specified: spec.user_specified_image,
        annotations: texts(&format!("{at}.annotations"), spec.annotations)?,
    })
}

/// For responses. `reference`: of the image that was found.
pub(super) fn to_proto(image: &ImageRequest, reference: String) -> proto::ImageSpec {
    proto::ImageSpec {
        image: image.image.clone(),
        user_specified_image: image.user_specified.clone(),
        annotations: image.annotations.clone(),
        image_ref: reference,
        ..Default::default()
    }
}
