//! The store's records of images and layers. [`crisp_operation::record`] writes records and handles damaged
//! and newer ones.

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
    /// `layers`, with the layers of directories that the store has made for this image. Empty if it has made
    /// none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub with_own_layers: Vec<DiffId>,
    /// The boot in which the image was committed, until it is synced to disk. In another boot its content may
    /// be damaged.
    #[serde(default, alias = "unsettled_in", skip_serializing_if = "Option::is_none")]
    pub unsynced_in: Option<String>,
    pub pinned: bool,
    /// Nanoseconds since 1970.
    pub pulled_at: i64,
}

impl ImageRecord {
    /// The layers of a mount of the image, bottom first.
    pub fn lower(&self) -> &[DiffId] {
        if self.with_own_layers.is_empty() { &self.layers } else { &self.with_own_layers }
    }
}

/// A name and the time at which the image got it. If the server crashes while a name moves, both images have
/// it: the later one keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Name {
    pub name: String,
    pub since: i64,
}

/// An unpacked layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    pub diff_id: DiffId,
    /// Bytes on disk, in whole blocks.
    pub bytes: u64,
    pub inodes: u64,
    /// The archive hides the layers below. The kernel ignores that mark on an overlay's root, so a mount must
    /// leave out the layers below.
    pub opaque_root: bool,
    /// Directories that the archive uses but lacks. Their attributes are not part of the checksum.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub implied: Vec<String>,
    /// The same, with attributes that an earlier release has copied from the layers of some image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inherited: Vec<String>,
    /// The checksum of the tree as it was unpacked. Layers of earlier releases have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Checksum>,
    /// The tree differs from its checksum, or the disk failed while it was written: the next pull of an image
    /// with the layer unpacks it again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub damaged: bool,
    /// The boot in which it was unpacked. Until the record of a synced image names the layer, its content is
    /// only trusted in that boot: it may not have reached the disk.
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

/// Writes a record into a folder that is not published yet. The next sync makes it durable together with the
/// rest of the folder.
pub(super) fn write_new(path: &Path, record: &impl Record) -> Result<(), StoreError> {
    record::write(path, record, Durability::Process).map_err(write_error)
}

fn write_error(error: RecordError) -> StoreError {
    match error {
        RecordError::Io { path, source } => StoreError::at("write", &path)(source),
        RecordError::Damaged { .. } | RecordError::Newer { .. } => StoreError::Record(error),
    }
}
