//! Why a pull failed: at which stage, and for each endpoint why.

use std::fmt;
use std::sync::Arc;

use crate::digest::Digest;
use crate::manifest::ManifestError;
use crate::mirror::MirrorError;
use crate::reference::InvalidReference;
use crate::registry::{EndpointError, ErrorKind, InvalidAuth};
use crate::store::{IngestError, StoreError};

/// The steps of a pull, in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PullStage {
    /// Reading the request.
    Request,
    /// Finding the endpoints.
    Endpoints,
    /// Asking what the reference stands for now.
    Resolve,
    /// Reading manifests.
    Manifest,
    /// Reading the configuration.
    Config,
    /// Fetching and unpacking layers; the digest is that of one layer's compressed form, where it is known
    /// which one.
    Layer(Option<Digest>),
    /// Making the image known.
    Commit,
}

impl fmt::Display for PullStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request => f.write_str("request"),
            Self::Endpoints => f.write_str("endpoints"),
            Self::Resolve => f.write_str("resolve"),
            Self::Manifest => f.write_str("manifest"),
            Self::Config => f.write_str("config"),
            Self::Layer(None) => f.write_str("layers"),
            Self::Layer(Some(digest)) => write!(f, "layer {digest}"),
            Self::Commit => f.write_str("commit"),
        }
    }
}

/// A pull that failed. Clones share the cause: everybody who waited for the pull gets one.
#[derive(Debug, Clone, thiserror::Error)]
#[error("pull {reference}: {stage}: {cause}")]
pub struct PullError {
    /// What was to be pulled, as complete as it was understood.
    pub reference: String,
    /// Where it stopped.
    pub stage: PullStage,
    /// Why.
    #[source]
    pub cause: PullCause,
}

impl PullError {
    /// What kind of failure this is, for gRPC codes and exit codes.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.cause.kind()
    }
}

/// Why a pull failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PullCause {
    /// The reference is not one.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// The credentials cannot be read.
    #[error(transparent)]
    Auth(#[from] InvalidAuth),
    /// The registry's configuration cannot be read.
    #[error(transparent)]
    Mirror(Box<MirrorError>),
    /// No endpoint could do it.
    #[error(transparent)]
    Endpoints(#[from] AllFailed),
    /// What was received is not an image for this machine.
    #[error(transparent)]
    Manifest(Box<ManifestError>),
    /// A layer's content cannot be unpacked.
    #[error("{0}")]
    Ingest(Arc<IngestError>),
    /// The store failed.
    #[error("{0}")]
    Store(Arc<StoreError>),
    /// Another layer of the same image failed first.
    #[error("given up because another layer failed")]
    Cancelled,
    /// A bug: the pull ended without a result.
    #[error("the pull ended without a result; this is a bug in crisp")]
    Lost,
}

impl PullCause {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Reference(_) | Self::Auth(_) => ErrorKind::InvalidArgument,
            Self::Mirror(error) => mirror_kind(error),
            Self::Endpoints(failed) => failed.kind(),
            Self::Manifest(error) => manifest_kind(error),
            Self::Ingest(error) => ingest_kind(error),
            Self::Store(error) => store_kind(error),
            Self::Cancelled | Self::Lost => ErrorKind::Internal,
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

fn mirror_kind(error: &MirrorError) -> ErrorKind {
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
        IngestError::DiskFull { .. } => ErrorKind::ResourceExhausted,
        IngestError::Store(error) => store_kind(error),
    }
}

fn store_kind(error: &StoreError) -> ErrorKind {
    match error {
        StoreError::DiskFull { .. } => ErrorKind::ResourceExhausted,
        StoreError::Config { .. } | StoreError::WrongDigest { .. } => ErrorKind::DataLoss,
        StoreError::LayerMissing(_) | StoreError::ImageMissing(_) => ErrorKind::Unavailable,
        StoreError::Io { .. } | StoreError::Record(_) | StoreError::InUse(_) => ErrorKind::Internal,
    }
}

/// One endpoint and why it could not do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointFailure {
    /// Address and origin of the endpoint.
    pub endpoint: String,
    /// Whether it is the registry itself, whose word is final.
    pub is_registry: bool,
    /// Why it failed, or why it was not asked.
    pub error: Option<EndpointError>,
}

/// Every endpoint failed, each for its reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct AllFailed {
    /// In the order of the configuration.
    pub failures: Vec<EndpointFailure>,
}

impl AllFailed {
    fn kind(&self) -> ErrorKind {
        let of = |f: &EndpointFailure| f.error.as_ref().map(EndpointError::kind);
        let registry = self.failures.iter().filter(|f| f.is_registry).find_map(of);
        let any = self.failures.iter().rev().find_map(of);
        registry.or(any).unwrap_or(ErrorKind::FailedPrecondition)
    }
}

impl fmt::Display for AllFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, failure) in self.failures.iter().enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            write!(f, "{separator}{}: ", failure.endpoint)?;
            match &failure.error {
                Some(error) => error.fmt(f)?,
                None => f.write_str("not asked, its capabilities do not allow it")?,
            }
        }
        Ok(())
    }
}
