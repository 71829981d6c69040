//! What can go wrong in the store.

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
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The file system is full.
    #[error("{doing} {}: the disk is full; remove unused images or enlarge the file system", path.display())]
    DiskFull {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
    },
    /// A record that cannot be written or read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The disk failed while a layer was written.
    #[error("{}: the disk lost writes while it was written; pull the image again", .0.display())]
    LostWrites(PathBuf),
    /// Another server uses the store.
    #[error("{} is in use by another crisp; stop it or choose another --root", .0.display())]
    InUse(PathBuf),
    /// The configuration is not one.
    #[error("image configuration {digest} cannot be read: {why}")]
    Config {
        /// Its digest.
        digest: Digest,
        /// What is wrong with it.
        why: String,
    },
    /// The bytes given are not what their digest says.
    #[error("the {what} given as {digest} has another digest; pull the image again")]
    WrongDigest {
        /// Which document.
        what: &'static str,
        /// The digest that it should have.
        digest: Digest,
    },
    /// An image cannot be committed, or a lease given, for a layer that is not there.
    #[error("layer {0} is not in the store; pull the image again")]
    LayerMissing(DiffId),
    /// No such image.
    #[error("image {0} is not in the store")]
    ImageMissing(ImageId),
}

impl StoreError {
    /// Says what failed where; a full disk becomes a kind of its own.
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

/// Nothing, or too much, is known by a name.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FindError {
    /// No image has this name, digest or id.
    #[error("image {0:?} is not present; pull it first")]
    Unknown(String),
    /// More than one image id starts so.
    #[error("image id {prefix:?} is ambiguous: it could be {}; give more digits", .candidates.join(" or "))]
    Ambiguous {
        /// What was given.
        prefix: String,
        /// The ids that start so.
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
        /// Which layer.
        diff: DiffId,
        /// What the reader said.
        source: io::Error,
    },
    /// The compressed data is damaged.
    #[error("layer {diff} cannot be decompressed as {compression}: {source}")]
    Decompress {
        /// Which layer.
        diff: DiffId,
        /// As what it was read.
        compression: Compression,
        /// What the decompressor said.
        source: io::Error,
    },
    /// The archive is damaged, hostile or not supported.
    #[error("layer {diff}: {source}")]
    Archive {
        /// Which layer.
        diff: DiffId,
        /// Which entry and why.
        source: UnpackError,
    },
    /// The uncompressed archive is not the one that the image's configuration names.
    #[error("layer {expected} does not match the image configuration: its content hashes to {actual}")]
    DiffId {
        /// What the configuration says.
        expected: DiffId,
        /// What arrived.
        actual: Digest,
    },
    /// The file system is full.
    #[error("unpacking layer {diff} to {}: the disk is full; remove unused images or enlarge the file system", path.display())]
    DiskFull {
        /// Which layer.
        diff: DiffId,
        /// Where it was unpacked.
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
