//! The error of a failed pull: the stage, and the reason of each endpoint.

use crisp_operation::{Failure, Interrupted};

use crate::digest::Digest;
use crate::manifest::ManifestError;
use crate::mirror::{AllFailed, MirrorError};
use crate::reference::InvalidReference;
use crate::registry::{ErrorKind, InvalidAuth};
use crate::store::{IngestError, StoreError};

/// A failed pull. All clients that waited for it get the same error.
#[derive(Debug, thiserror::Error)]
#[error("pull {reference}: {stage}: {cause}{}", hanging(*.pending))]
pub struct PullError {
    /// The image to pull, as completely as its name could be parsed.
    pub reference: String,
    /// The stage that failed: `request`, or a [`PullStage`](super::PullStage)'s name.
    pub stage: &'static str,
    /// Why.
    #[source]
    pub cause: PullCause,
    /// A cancelled stage that hangs in the kernel.
    pub pending: Option<&'static str>,
}

fn hanging(pending: Option<&'static str>) -> String {
    pending.map(|stage| format!("; stage {stage} still hangs on the disk")).unwrap_or_default()
}

impl PullError {
    /// The kind of this failure, for gRPC codes and exit codes.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.cause.kind()
    }

    pub(super) fn new(reference: &str, stage: &'static str, cause: PullCause) -> Self {
        Self { reference: reference.to_owned(), stage, cause, pending: None }
    }

    pub(super) fn from_failure(reference: &str, failure: Failure<PullCause>) -> Self {
        let Failure { failure, pending, .. } = failure;
        Self { pending, ..Self::new(reference, failure.stage, failure.cause) }
    }
}

/// The task of a pull ended without a result.
impl From<Interrupted> for PullError {
    fn from(cause: Interrupted) -> Self {
        Self::new("of an image", "start", cause.into())
    }
}

/// The cause of a failed pull.
#[derive(Debug, thiserror::Error)]
pub enum PullCause {
    /// The reference is not valid.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// The credentials are not valid.
    #[error(transparent)]
    Auth(#[from] InvalidAuth),
    /// The registry's configuration cannot be read.
    #[error(transparent)]
    Mirror(Box<MirrorError>),
    /// All endpoints failed.
    #[error(transparent)]
    Endpoints(#[from] AllFailed),
    /// The content is not an image for this machine.
    #[error(transparent)]
    Manifest(Box<ManifestError>),
    /// One layer cannot be fetched or unpacked.
    #[error("layer {digest}: {source}")]
    Layer {
        /// The digest of the compressed layer.
        digest: Digest,
        /// The cause.
        source: Box<PullCause>,
    },
    /// A layer's content cannot be unpacked.
    #[error(transparent)]
    Ingest(Box<IngestError>),
    /// The store failed.
    #[error(transparent)]
    Store(Box<StoreError>),
    /// Cancelled, timed out, or shut down.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

impl PullCause {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Reference(_) | Self::Auth(_) => ErrorKind::InvalidArgument,
            Self::Mirror(error) => mirror_kind(error),
            Self::Endpoints(failed) => failed.kind(),
            Self::Manifest(error) => manifest_kind(error),
            Self::Layer { source, .. } => source.kind(),
            Self::Ingest(error) => ingest_kind(error),
            Self::Store(error) => store_kind(error),
            Self::Interrupted(interrupted) => match interrupted {
                Interrupted::Deadline { .. } => ErrorKind::DeadlineExceeded,
                Interrupted::Cancelled => ErrorKind::Cancelled,
                Interrupted::ShuttingDown => ErrorKind::Unavailable,
                Interrupted::Panicked { .. } | Interrupted::Fault => ErrorKind::Internal,
            },
        }
    }
}

impl From<MirrorError> for PullCause {
    fn from(error: MirrorError) -> Self {
        Self::Mirror(Box::new(error))
    }
}

impl From<ManifestError> for PullCause {
    fn from(error: ManifestError) -> Self {
        Self::Manifest(Box::new(error))
    }
}

impl From<IngestError> for PullCause {
    fn from(error: IngestError) -> Self {
        Self::Ingest(Box::new(error))
    }
}

impl From<StoreError> for PullCause {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

pub(super) fn mirror_kind(error: &MirrorError) -> ErrorKind {
    match error {
        MirrorError::Registry { .. } => ErrorKind::InvalidArgument,
        MirrorError::Read { .. } | MirrorError::HostsFile(_) => ErrorKind::FailedPrecondition,
    }
}

fn manifest_kind(error: &ManifestError) -> ErrorKind {
    match error {
        ManifestError::Schema1
        | ManifestError::MediaType { .. }
        | ManifestError::Artifact { .. }
        | ManifestError::LayerType { .. }
        | ManifestError::ForeignLayer { .. }
        | ManifestError::TooDeep { .. }
        | ManifestError::TooManyLayers { .. }
        | ManifestError::ConfigTooLarge { .. } => ErrorKind::FailedPrecondition,
        ManifestError::Platform { .. } => ErrorKind::NotFound,
        ManifestError::Contradiction { .. }
        | ManifestError::Malformed { .. }
        | ManifestError::Size { .. }
        | ManifestError::Config { .. }
        | ManifestError::LayerCount { .. } => ErrorKind::DataLoss,
    }
}

fn ingest_kind(error: &IngestError) -> ErrorKind {
    match error {
        IngestError::Source { .. } => ErrorKind::Unavailable,
        IngestError::Decompress { .. } | IngestError::Archive { .. } | IngestError::DiffId { .. } => {
            ErrorKind::DataLoss
        }
        IngestError::DiskFull { .. } | IngestError::NoRoom { .. } => ErrorKind::ResourceExhausted,
        IngestError::Store(error) => store_kind(error),
    }
}

fn store_kind(error: &StoreError) -> ErrorKind {
    match error {
        StoreError::DiskFull { .. } => ErrorKind::ResourceExhausted,
        StoreError::Config { .. } | StoreError::WrongDigest { .. } => ErrorKind::DataLoss,
        StoreError::LayerMissing(_) | StoreError::ImageMissing(_) => ErrorKind::Unavailable,
        StoreError::Io { .. } | StoreError::Record(_) | StoreError::LostWrites(_) | StoreError::InUse(_) => {
            ErrorKind::Internal
        }
    }
}
