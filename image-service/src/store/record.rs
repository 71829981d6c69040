//! What the store keeps on disk about an image and about a layer. How records are written, and what
//! happens to damaged and newer ones, is [`crisp_operation::record`]'s matter.

use std::path::Path;

use crisp_operation::record::{self, Durability, Record, RecordError};
use serde::{Deserialize, Serialize};

use super::error::StoreError;
use crate::digest::{DiffId, Digest, ImageId};
use crate::tree::Checksum;

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ImageRecord {
    pub id: ImageId,
    pub manifest: Digest,
    /// `name:tag` and `name@digest`.
    pub names: Vec<Name>,
    /// Bottom first.
    pub layers: Vec<DiffId>,
    /// `layers`, and among them those of directories alone that the store has made for this image. Empty where
    /// it has made none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub with_own_layers: Vec<DiffId>,
    /// The boot in which the image was committed, until it is synced to disk. In another boot its content
    /// may be damaged.
    #[serde(default, alias = "unsettled_in", skip_serializing_if = "Option::is_none")]
    pub unsynced_in: Option<String>,
    pub pinned: bool,
    /// Nanoseconds since 1970.
    pub pulled_at: i64,
}

impl ImageRecord {
    /// What a mount of the image is made of, bottom first.
    pub fn lower(&self) -> &[DiffId] {
        if self.with_own_layers.is_empty() { &self.layers } else { &self.with_own_layers }
    }
}

/// A name and when the image got it. A crash while a name moves from one image to another leaves it on
/// both: the later one has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Name {
    pub name: String,
    pub since: i64,
}

/// An unpacked layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    pub diff_id: DiffId,
    /// On disk, whole blocks.
    pub bytes: u64,
    pub inodes: u64,
    /// The archive says that the layers below are hidden. The kernel does not look for that mark on an
    /// overlay's root, so a mount must leave the layers below out.
    pub opaque_root: bool,
    /// Directories that the archive uses without bringing them. Their attributes are not part of the checksum.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub implied: Vec<String>,
    /// The same, with attributes that an earlier release has copied from the layers of some image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inherited: Vec<String>,
    /// Of the tree as it was unpacked. Layers of earlier releases have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Checksum>,
    /// The tree was found to differ, or the disk failed while it was written: the next pull of an image
    /// that has the layer unpacks it again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub damaged: bool,
    /// The boot in which it was unpacked. Until the record of a synced image names the layer, its content
    /// is only trusted within that boot: it may not have reached the disk.
    pub boot_id: String,
}

impl Record for ImageRecord {
    const KIND: &'static str = "image record";
}

impl Record for LayerRecord {
    const KIND: &'static str = "layer record";
}

/// Replaces a record: after a power cut it is the old or the new one.
pub(super) fn replace(path: &Path, record: &impl Record) -> Result<(), StoreError> {
    record::write(path, record, Durability::PowerCut).map_err(write_error)
}

/// Writes a record into a folder that is not published yet. The next sync makes it durable, together with
/// everything else in the folder.
pub(super) fn write_new(path: &Path, record: &impl Record) -> Result<(), StoreError> {
    record::write(path, record, Durability::Process).map_err(write_error)
}

fn write_error(error: RecordError) -> StoreError {
    match error {
        RecordError::Io { path, source } => StoreError::at("write", &path)(source),
        RecordError::Damaged { .. } | RecordError::Newer { .. } => StoreError::Record(error),
    }
}
