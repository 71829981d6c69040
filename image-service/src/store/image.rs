//! An image in the store, and the data for adding one.

use oci_spec::image::ImageConfiguration;

use super::record::ImageRecord;
use crate::digest::{DiffId, Digest, ImageId};
use crate::reference::Reference;

/// A complete image: every layer is unpacked and durable.
#[derive(Debug, Clone)]
pub struct Image {
    /// The digest of the configuration.
    pub id: ImageId,
    /// `name:tag` names, sorted.
    pub repo_tags: Vec<String>,
    /// `name@digest` names, sorted.
    pub repo_digests: Vec<String>,
    /// Bytes on disk of all unpacked layers, including shared ones: the space that is freed with the last
    /// image that has them.
    pub size: u64,
    /// The parsed configuration.
    pub config: ImageConfiguration,
    /// Layers, bottom first, as the configuration lists them.
    pub diff_ids: Vec<DiffId>,
    /// The layers of a mount, bottom first: the same, and layers of directories that the store has made for
    /// the image.
    pub lower: Vec<DiffId>,
    /// The digest of the platform's own manifest.
    pub manifest: Digest,
    /// Image garbage collection must not remove the image.
    pub pinned: bool,
    /// When it was first committed, nanoseconds since 1970.
    pub pulled_at: i64,
}

impl Image {
    /// The image of a record; `layer_bytes` returns the size of a layer on disk.
    pub(super) fn new(
        record: &ImageRecord,
        config: ImageConfiguration,
        layer_bytes: impl Fn(&DiffId) -> u64,
    ) -> Self {
        let mut names: Vec<&str> = record.names.iter().map(|name| name.name.as_str()).collect();
        names.sort_unstable();
        let (digests, tags): (Vec<&str>, Vec<&str>) = names.into_iter().partition(|name| name.contains('@'));
        let mut distinct: Vec<&DiffId> = record.lower().iter().collect();
        distinct.sort_unstable();
        distinct.dedup();
        Self {
            id: record.id.clone(),
            repo_tags: tags.into_iter().map(str::to_owned).collect(),
            repo_digests: digests.into_iter().map(str::to_owned).collect(),
            size: distinct.into_iter().map(layer_bytes).sum(),
            config,
            diff_ids: record.layers.clone(),
            lower: record.lower().to_vec(),
            manifest: record.manifest.clone(),
            pinned: record.pinned,
            pulled_at: record.pulled_at,
        }
    }
}

/// Bytes with their digest.
#[derive(Debug, Clone)]
pub struct Document {
    /// The digest of the bytes; the store checks it again.
    pub digest: Digest,
    /// The bytes exactly as received.
    pub bytes: Vec<u8>,
}

/// An image to commit. Its layers are those in the configuration; all must have been ingested.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// The requested reference.
    pub reference: Reference,
    /// The resolved digest: that of the index if there is one, else of the manifest.
    pub resolved: Digest,
    /// The platform's manifest.
    pub manifest: Document,
    /// The configuration; its digest is the image id.
    pub config: Document,
}

/// The disk usage of the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FsUsage {
    /// Bytes, counted in whole blocks.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// The result of removing a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// The name is removed; the image stays under its other names.
    Untagged(ImageId),
    /// The image is removed.
    Image(ImageId),
}
