//! The errors of the store.

use std::io;
use std::path::{Path, PathBuf};

use crisp_operation::record::RecordError;

use crate::digest::{DiffId, Digest, ImageId};
use crate::reference::InvalidReference;
use crate::unpack::{Compression, UnpackError};

/// The store could not be opened, read or changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// The action.
        doing: &'static str,
        /// Its file or folder.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The file system is full.
    #[error("{doing} {}: the disk is full; remove unused images or enlarge the file system", path.display())]
    DiskFull {
        /// The action.
        doing: &'static str,
        /// Its file or folder.
        path: PathBuf,
    },
    /// A record cannot be written or read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The disk failed while a layer was written.
    #[error("{}: the disk lost writes while it was written; pull the image again", .0.display())]
    LostWrites(PathBuf),
    /// Another server uses the store.
    #[error("{} is in use by another crisp; stop it or choose another --root", .0.display())]
    InUse(PathBuf),
    /// The configuration is not valid.
    #[error("image configuration {digest} cannot be read: {why}")]
    Config {
        /// Its digest.
        digest: Digest,
        /// The reason.
        why: String,
    },
    /// The bytes do not match their digest.
    #[error("the {what} given as {digest} has another digest; pull the image again")]
    WrongDigest {
        /// The kind of document.
        what: &'static str,
        /// The digest that it should have.
        digest: Digest,
    },
    /// A layer for a commit or a lease does not exist.
    #[error("layer {0} is not in the store; pull the image again")]
    LayerMissing(DiffId),
    /// No such image.
    #[error("image {0} is not in the store")]
    ImageMissing(ImageId),
}

impl StoreError {
    /// Adds the action and the path; a full disk becomes its own kind.
    pub(crate) fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| {
            if is_disk_full(&source) {
                Self::DiskFull { doing, path }
            } else {
                Self::Io { doing, path, source }
            }
        }
    }
}

/// No blocks, no inodes, or no quota left.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The reason why a name has no image.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FindError {
    /// No image has this name, digest or id.
    #[error("image {0:?} is not present; pull it first")]
    Unknown(String),
    /// More than one image id begins like this.
    #[error("image id {prefix:?} is ambiguous: it could be {}; give more digits", .candidates.join(" or "))]
    Ambiguous {
        /// The text.
        prefix: String,
        /// The ids that begin like this.
        candidates: Vec<String>,
    },
    /// Neither an id nor a reference.
    #[error(transparent)]
    Invalid(#[from] InvalidReference),
}

/// A layer could not be unpacked into the store. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The compressed stream failed: the reader's own error, such as a lost connection or a wrong digest.
    #[error("layer {diff}: {source}")]
    Source {
        /// The layer.
        diff: DiffId,
        /// The reader's error.
        source: io::Error,
    },
    /// The compressed data is damaged.
    #[error("layer {diff} cannot be decompressed as {compression}: {source}")]
    Decompress {
        /// The layer.
        diff: DiffId,
        /// The compression that was detected.
        compression: Compression,
        /// The decompressor's error.
        source: io::Error,
    },
    /// The archive is damaged, hostile or not supported.
    #[error("layer {diff}: {source}")]
    Archive {
        /// The layer.
        diff: DiffId,
        /// The entry and the reason.
        source: UnpackError,
    },
    /// The uncompressed archive is not the one that the image's configuration names.
    #[error("layer {expected} does not match the image configuration: its content hashes to {actual}")]
    DiffId {
        /// The diff id in the configuration.
        expected: DiffId,
        /// The digest of the received content.
        actual: Digest,
    },
    /// The file system is full.
    #[error("unpacking layer {diff} to {}: the disk is full; remove unused images or enlarge the file system", path.display())]
    DiskFull {
        /// The layer.
        diff: DiffId,
        /// The folder in which it was unpacked.
        path: PathBuf,
    },
    /// The file system would be full, or nearly so.
    #[error(
        "unpacking layer {diff} to {}: {needed} bytes more are needed, {free} are free, of which {kept} stay free, \
         a tenth of what was free when it began; remove unused images or enlarge the file system", path.display()
    )]
    NoRoom {
        /// Which layer.
        diff: DiffId,
        /// Where it was unpacked.
        path: PathBuf,
        /// Bytes.
        needed: u64,
        /// Bytes.
        free: u64,
        /// Bytes.
        kept: u64,
    },
    /// The store itself failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
