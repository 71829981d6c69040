//! What is written to disk, and how.
//!
//! A record is replaced by writing it whole to a temporary name, syncing, renaming it over the old one,
//! and syncing its folder: after a power cut it is the old or the new one. A new image's files are not
//! synced one by one but all together, with its layers. A record carries its version; a newer server reads
//! older ones, an older server sets newer ones aside instead of misreading them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::error::StoreError;
use crate::digest::{DiffId, Digest, ImageId};

/// The version written.
pub(super) const VERSION: u32 = 1;

/// What makes an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImageRecord {
    pub version: u32,
    pub id: ImageId,
    pub manifest: Digest,
    /// `name:tag` and `name@digest`.
    pub names: Vec<Name>,
    /// Bottom first.
    pub layers: Vec<DiffId>,
    /// The boot in which the image was committed, until it is durable: in another boot it may be damaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsettled_in: Option<String>,
    pub pinned: bool,
    /// Nanoseconds since 1970.
    pub pulled_at: i64,
}

/// A name and when the image got it. A crash while a name moves from one image to another leaves it on
/// both: the later one has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Name {
    pub name: String,
    pub since: i64,
}

/// What is known of an unpacked layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LayerRecord {
    pub version: u32,
    pub diff_id: DiffId,
    /// On disk, whole blocks.
    pub bytes: u64,
    pub inodes: u64,
    /// The archive says that nothing of the layers below shows through. The kernel does not look for
    /// that on an overlay's root, so whoever lists the layers for a mount stops here.
    pub opaque_root: bool,
    /// Directories that the archive uses without bringing them, and that have not got the attributes of
    /// those that they cover yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub implied: Vec<String>,
    /// The boot in which it was unpacked. Until an image record names the layer, its content is only
    /// trusted within that boot: it may not have reached the disk.
    pub boot_id: String,
}

/// Every record begins so.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Reads a record, refusing versions from the future.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let bytes = fs::read(path).map_err(|e| e.to_string())?;
    let versioned: Versioned = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    if versioned.version > VERSION {
        return Err(format!("written by a newer crisp (version {})", versioned.version));
    }
    serde_json::from_slice(&bytes).map_err(|e| e.to_string())
}

/// Replaces a record: afterwards it is on disk.
pub(super) fn replace(path: &Path, record: &impl Serialize) -> Result<(), StoreError> {
    let temporary = path.with_extension("json.new");
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(&encode(record))?;
        file.sync_all()
    };
    write().map_err(StoreError::at("write", &temporary))?;
    fs::rename(&temporary, path).map_err(StoreError::at("write", path))?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// The bytes of a record.
pub(super) fn encode(record: &impl Serialize) -> Vec<u8> {
    // Plain structs of strings and numbers always serialise.
    let mut bytes = serde_json::to_vec_pretty(record).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// Writes a file that nobody reads yet; it is durable with the next sync of its file system.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    fs::write(path, bytes).map_err(StoreError::at("write", path))
}

/// Makes renames within a folder durable.
pub(super) fn sync_folder(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(StoreError::at("sync", path))
}

/// Makes everything written to the file system of `path` durable: once for a whole image instead of
/// once for each of its files.
pub(super) fn sync_file_system(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|folder| rustix::fs::syncfs(&folder).map_err(Into::into))
        .map_err(StoreError::at("sync the file system of", path))
}
