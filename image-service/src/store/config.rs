//! The fields of an image's configuration that the store reads.

use oci_spec::image::ImageConfiguration;

use super::error::StoreError;
use crate::digest::{DiffId, Digest, ImageId};

/// Parses a configuration.
pub(super) fn parse(digest: &Digest, bytes: &[u8]) -> Result<ImageConfiguration, StoreError> {
    serde_json::from_slice(bytes)
        .map_err(|e| StoreError::Config { digest: digest.clone(), why: e.to_string() })
}

/// The layers that a configuration lists, bottom first.
pub(super) fn layers(id: &ImageId, config: &ImageConfiguration) -> Result<Vec<DiffId>, StoreError> {
    let parse = |text: &String| {
        DiffId::parse(text)
            .map_err(|e| StoreError::Config { digest: id.digest().clone(), why: e.to_string() })
    };
    config.rootfs().diff_ids().iter().map(parse).collect()
}
