//! What the store knows of an image, and what it takes to add one.

use oci_spec::image::ImageConfiguration;

use super::record::ImageRecord;
use crate::digest::{DiffId, Digest, ImageId};
use crate::reference::Reference;

/// An image that is complete: every layer is unpacked and durable.
#[derive(Debug, Clone)]
pub struct Image {
    /// The digest of the configuration.
    pub id: ImageId,
    /// `name:tag` names, sorted.
    pub repo_tags: Vec<String>,
    /// `name@digest` names, sorted.
    pub repo_digests: Vec<String>,
    /// Bytes on disk of all layers unpacked, shared ones included: what removing the last image with
    /// them gives back.
    pub size: u64,
    /// The parsed configuration.
    pub config: ImageConfiguration,
    /// Layers, bottom first, as the configuration lists them.
    pub diff_ids: Vec<DiffId>,
    /// What a mount of it is made of, bottom first: the same, and layers of directories that the store has made
    /// for it.
    pub lower: Vec<DiffId>,
    /// The digest of the platform's own manifest.
    pub manifest: Digest,
    /// Image garbage collection must leave the image alone.
    pub pinned: bool,
    /// When it was first committed, nanoseconds since 1970.
    pub pulled_at: i64,
}

impl Image {
    /// The image that a record describes; `layer_bytes` says how large a layer is on disk.
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

/// Bytes with the digest that they are known by.
#[derive(Debug, Clone)]
pub struct Document {
    /// What the bytes hash to; the store checks it once more.
    pub digest: Digest,
    /// Exactly as received.
    pub bytes: Vec<u8>,
}

/// An image to commit. Its layers are those that the configuration lists; all must have been ingested.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// What was asked for.
    pub reference: Reference,
    /// What the reference resolved to: the digest of the index where there is one, else of the manifest.
    pub resolved: Digest,
    /// The platform's manifest.
    pub manifest: Document,
    /// The configuration; its digest is the image id.
    pub config: Document,
}

/// What the store holds on its file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FsUsage {
    /// Bytes, counted in whole blocks.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// What removing a name did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// The name is gone; the image stays under its other names.
    Untagged(ImageId),
    /// The image is gone.
    Image(ImageId),
}
