//! The only mapping of errors to gRPC codes. It has no wildcard arm: a new error needs a decision.

use tonic::{Code, Status};

use crate::archive::ArchiveError;
use crate::pull::{LoginError, PullError};
use crate::registry::ErrorKind;
use crate::service::RemoveError;
use crate::store::{FindError, IngestError, StoreError};

pub(super) fn of_find(error: &FindError) -> Status {
    let code = match error {
        FindError::Unknown(_) => Code::NotFound,
        FindError::Ambiguous { .. } | FindError::Invalid(_) => Code::InvalidArgument,
    };
    Status::new(code, error.to_string())
}

pub(super) fn of_remove(error: &RemoveError) -> Status {
    match error {
        RemoveError::Find(error) => of_find(error),
        RemoveError::Store(error) => of_store(error),
        RemoveError::Interrupted(_) => Status::unavailable(error.to_string()),
    }
}

pub(super) fn of_store(error: &StoreError) -> Status {
    let code = match error {
        StoreError::Io { .. } | StoreError::Record(_) | StoreError::LostWrites(_) => Code::Internal,
        StoreError::DiskFull { .. } => Code::ResourceExhausted,
        StoreError::InUse(_) => Code::FailedPrecondition,
        StoreError::Config { .. } | StoreError::WrongDigest { .. } => Code::DataLoss,
        StoreError::LayerMissing(_) => Code::Unavailable,
        StoreError::ImageMissing(_) => Code::NotFound,
    };
    Status::new(code, error.to_string())
}

fn of_ingest(error: &IngestError) -> Code {
    match error {
        IngestError::Source { .. } | IngestError::DiffId { .. } => Code::DataLoss,
        IngestError::Decompress { .. } | IngestError::Archive { .. } => Code::InvalidArgument,
        IngestError::DiskFull { .. } | IngestError::NoRoom { .. } => Code::ResourceExhausted,
        IngestError::Store(error) => of_store(error).code(),
    }
}

pub(super) fn of_archive(error: &ArchiveError) -> Status {
    let code = match error {
        ArchiveError::Find(error) => of_find(error).code(),
        ArchiveError::Store(error) => of_store(error).code(),
        ArchiveError::Layer(error) => of_ingest(error),
        ArchiveError::Received(_) => Code::Aborted,
        ArchiveError::Io { .. } => Code::Internal,
        ArchiveError::Digest { .. } => Code::DataLoss,
        ArchiveError::TooMany { .. }
        | ArchiveError::TooLarge(_)
        | ArchiveError::DiskFull
        | ArchiveError::NoRoom { .. } => Code::ResourceExhausted,
        ArchiveError::Image { .. }
        | ArchiveError::Tar(_)
        | ArchiveError::Compressed(_)
        | ArchiveError::NoImages
        | ArchiveError::Missing(_)
        | ArchiveError::Document { .. }
        | ArchiveError::Reference(_)
        | ArchiveError::Change(_) => Code::InvalidArgument,
    };
    Status::new(code, error.to_string())
}

pub(super) fn of_pull(error: &PullError) -> Status {
    Status::new(of_kind(error.kind()), error.to_string())
}

pub(super) fn of_login(error: &LoginError) -> Status {
    Status::new(of_kind(error.kind()), error.to_string())
}

fn of_kind(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::ResourceExhausted => Code::ResourceExhausted,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::Cancelled => Code::Cancelled,
        ErrorKind::DataLoss => Code::DataLoss,
        ErrorKind::Internal => Code::Internal,
        ErrorKind::FailedPrecondition => Code::FailedPrecondition,
    }
}
