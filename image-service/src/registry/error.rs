//! The errors of one server.

use std::fmt;
use std::time::Duration;

use crate::digest::Digest;

/// The kind of a failure: a caller decides by this, not by the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorKind {
    /// The request itself is wrong.
    InvalidArgument,
    /// No such repository, tag, digest or platform.
    NotFound,
    /// Credentials are missing or wrong.
    Unauthenticated,
    /// The credentials are valid but do not allow it.
    PermissionDenied,
    /// The registry limits pulls, or the disk is full.
    ResourceExhausted,
    /// No server could be reached, or the failure may be temporary.
    Unavailable,
    /// It took too long.
    DeadlineExceeded,
    /// It was cancelled on request.
    Cancelled,
    /// Content does not match its digest, size or type.
    DataLoss,
    /// This machine's store or configuration does not work.
    Internal,
    /// The image's kind is not supported.
    FailedPrecondition,
}

/// The amount that had been received at a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes received.
    pub bytes: u64,
    /// The total number of bytes, where it is known.
    pub of: Option<u64>,
}

impl fmt::Display for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.of {
            Some(of) => write!(f, "{} of {of} bytes received", self.bytes),
            None => write!(f, "{} bytes received", self.bytes),
        }
    }
}

/// The reason why one server could not serve a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the fields are named by the messages")]
pub enum EndpointError {
    #[error("cannot connect: {why}")]
    Connect { why: String },
    #[error("TLS handshake failed: {why}")]
    Tls { why: String },
    #[error("no answer within {} s", .after.as_secs_f32())]
    NoAnswer { after: Duration },
    #[error("no data for {} s, {received}", .after.as_secs_f32())]
    Stalled { after: Duration, received: Received },
    #[error("too slow: {bytes} bytes in {:.1} s, {received}", .within.as_secs_f32())]
    Slow { bytes: u64, within: Duration, received: Received },
    #[error("connection ended early, {received}: {why}")]
    Cut { received: Received, why: String },
    #[error("answered {status}{detail}")]
    Status { status: u16, detail: String, retry_after: Option<Duration> },
    #[error("not found{detail}")]
    NotFound { detail: String },
    #[error("authentication required: {why}")]
    Unauthenticated { why: String },
    #[error("access denied{detail}")]
    Denied { detail: String },
    #[error("token server {realm}: {source}")]
    Token { realm: String, source: Box<EndpointError> },
    #[error("sent {what} with digest {found}, expected {expected}")]
    Digest { what: String, found: Digest, expected: Digest },
    #[error("sends {found} bytes for {what}, the manifest says {expected}")]
    Size { what: String, found: u64, expected: u64 },
    #[error("sends more than {limit} bytes for {what}")]
    TooLarge { what: String, limit: u64 },
    #[error("redirect refused: {why}")]
    Redirect { why: String },
    #[error("unusable answer: {why}")]
    Protocol { why: String },
    #[error("not usable as configured: {why}")]
    Configuration { why: String },
}

impl EndpointError {
    /// The kind of this failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Connect { .. } | Self::Tls { .. } | Self::Cut { .. } | Self::Redirect { .. } => {
                ErrorKind::Unavailable
            }
            Self::NoAnswer { .. } | Self::Stalled { .. } | Self::Slow { .. } => ErrorKind::DeadlineExceeded,
            Self::Status { status: 429, .. } => ErrorKind::ResourceExhausted,
            Self::Status { .. } | Self::Protocol { .. } => ErrorKind::Unavailable,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Unauthenticated { .. } => ErrorKind::Unauthenticated,
            Self::Denied { .. } => ErrorKind::PermissionDenied,
            Self::Token { source, .. } => source.kind(),
            Self::Digest { .. } | Self::Size { .. } | Self::TooLarge { .. } => ErrorKind::DataLoss,
            Self::Configuration { .. } => ErrorKind::Internal,
        }
    }

    /// Whether another request to the same endpoint may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::NoAnswer { .. }
            | Self::Stalled { .. }
            | Self::Slow { .. }
            | Self::Cut { .. } => true,
            // Cloudflare sends 520 to 527 and 530 when the registry behind it does not answer.
            Self::Status { status, .. } => {
                matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504 | 507 | 520..=527 | 530)
            }
            Self::Token { source, .. } => source.is_transient(),
            Self::Tls { .. }
            | Self::NotFound { .. }
            | Self::Unauthenticated { .. }
            | Self::Denied { .. }
            | Self::Digest { .. }
            | Self::Size { .. }
            | Self::TooLarge { .. }
            | Self::Redirect { .. }
            | Self::Protocol { .. }
            | Self::Configuration { .. } => false,
        }
    }

    /// Whether the failure concerns the server and not the requested content: its next responses will
    /// probably fail too.
    #[must_use]
    pub(crate) fn is_about_the_server(&self) -> bool {
        !matches!(self, Self::NotFound { .. })
    }

    /// The failure of a body, with the received amount of the blob.
    pub(crate) fn after(self, received: Received) -> Self {
        match self {
            Self::Stalled { after, .. } => Self::Stalled { after, received },
            Self::Slow { bytes, within, .. } => Self::Slow { bytes, within, received },
            Self::Cut { why, .. } => Self::Cut { received, why },
            other => other,
        }
    }

    /// The delay that the endpoint requested.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Token { source, .. } => source.retry_after(),
            _ => None,
        }
    }
}

/// An error with its causes on one line; repeated texts appear once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
