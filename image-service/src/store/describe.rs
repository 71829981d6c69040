//! From a record and a configuration to an image.

use oci_spec::image::ImageConfiguration;

use super::error::StoreError;
use super::image::Image;
use super::record::ImageRecord;
use crate::digest::{DiffId, Digest, ImageId};

/// The configuration, or why it is none.
pub(super) fn parse_config(digest: &Digest, bytes: &[u8]) -> Result<ImageConfiguration, StoreError> {
    serde_json::from_slice(bytes)
        .map_err(|e| StoreError::Config { digest: digest.clone(), why: e.to_string() })
}

/// The layers that a configuration lists, bottom first.
pub(super) fn layers_of(id: &ImageId, config: &ImageConfiguration) -> Result<Vec<DiffId>, StoreError> {
    let parse = |text: &String| {
        DiffId::parse(text)
            .map_err(|e| StoreError::Config { digest: id.digest().clone(), why: e.to_string() })
    };
    config.rootfs().diff_ids().iter().map(parse).collect()
}

/// An image as others see it.
pub(super) fn describe(
    record: &ImageRecord,
    config: ImageConfiguration,
    bytes: impl Fn(&DiffId) -> u64,
) -> Image {
    let mut names: Vec<&str> = record.names.iter().map(|name| name.name.as_str()).collect();
    names.sort_unstable();
    let (digests, tags): (Vec<&str>, Vec<&str>) = names.into_iter().partition(|name| name.contains('@'));
    let mut distinct: Vec<&DiffId> = record.layers.iter().collect();
    distinct.sort_unstable();
    distinct.dedup();
    Image {
        id: record.id.clone(),
        repo_tags: tags.into_iter().map(str::to_owned).collect(),
        repo_digests: digests.into_iter().map(str::to_owned).collect(),
        size: distinct.into_iter().map(bytes).sum(),
        config,
        diff_ids: record.layers.clone(),
        manifest: record.manifest.clone(),
        pinned: record.pinned,
        pulled_at: record.pulled_at,
    }
}
