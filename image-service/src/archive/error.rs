//! The reasons why an archive of images cannot be read or written.

use std::io;

use crate::digest::Digest;
use crate::manifest::ManifestError;
use crate::reference::InvalidReference;
use crate::store::{FindError, IngestError, StoreError};
use crate::unpack::{TarError, UnpackFault};

/// An archive could not be read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the fields are named by the messages")]
pub enum ArchiveError {
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Layer(#[from] IngestError),
    #[error("{image}: {source}")]
    Image { image: String, source: ManifestError },
    #[error("the archive: {0}")]
    Tar(#[from] TarError),
    #[error("the archive cannot be received: {0}")]
    Received(io::Error),
    #[error("the archive cannot be decompressed as {0}")]
    Compressed(String),
    #[error("cannot {doing}: {source}")]
    Io { doing: &'static str, source: io::Error },
    #[error(
        "cannot write a temporary file: the disk is full; remove unused images or enlarge the file system"
    )]
    DiskFull,
    #[error(
        "cannot write a temporary file: {needed} bytes more are needed, {free} are free, of which {kept} stay \
         free, a tenth of what was free when it began; remove unused images or enlarge the file system"
    )]
    NoRoom { needed: u64, free: u64, kept: u64 },
    #[error("the archive has neither manifest.json (docker save) nor index.json (an OCI layout)")]
    NoImages,
    #[error("the archive has no {0:?}, which its manifest names")]
    Missing(String),
    #[error("{name:?} in the archive: {why}")]
    Document { name: String, why: String },
    #[error("{name:?} in the archive is not the content with the digest {expected}")]
    Digest { name: String, expected: Digest },
    #[error("the archive has more than {limit} {what}, the limit for an archive of images")]
    TooMany { what: &'static str, limit: usize },
    #[error("the archive has more than {0} bytes, the limit of this server: see --max-layer-bytes")]
    TooLarge(u64),
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    #[error("change {0:?}: expected an instruction such as CMD [\"sh\"], ENV A=1, EXPOSE 80 or LABEL a=b")]
    Change(String),
}

impl ArchiveError {
    pub(super) fn io<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { doing, source: source.into() }
    }

    /// No room on the disk, or the room is unknown.
    pub(super) fn of_space(fault: UnpackFault) -> Self {
        match fault {
            UnpackFault::NoRoom { needed, free, kept } => Self::NoRoom { needed, free, kept },
            other => Self::Io { doing: "write a temporary file", source: io::Error::other(other) },
        }
    }
}
