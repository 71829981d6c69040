//! Messages that cannot be written or read.

use rustix::io::Errno;

/// A message that cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("the pod's monitor is older (protocol {protocol}) and does not support {what}: recreate the pod")]
    Unsupported { protocol: u16, what: &'static str },
    #[error("write the message: {reason}")]
    Format { reason: String },
    #[error("put the plan into memory: {}", std::io::Error::from(*errno))]
    Memory { errno: Errno },
}

/// Bytes or descriptors that are not the expected message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Malformed {
    pub reason: String,
}
