//! What the store knows of an image, and what it takes to add one.

use oci_spec::image::ImageConfiguration;

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
    /// The digest of the platform's own manifest.
    pub manifest: Digest,
    /// Not to be collected by whoever frees disk space.
    pub pinned: bool,
    /// When it was first committed, nanoseconds since 1970.
    pub pulled_at: i64,
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
