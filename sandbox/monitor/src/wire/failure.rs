//! The reason why a request to a monitor was refused or failed.

use crisp_executor::run::StageError;
use crisp_executor::run::sysctl::SysctlError;
use serde::{Deserialize, Serialize};

use super::codec;
use super::{EncodeError, Malformed};

/// The body of a failed response. Variants are only added at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    #[error(
        "the pod's monitor speaks protocol {monitor} and cannot read this request of protocol {client}: recreate the pod"
    )]
    Version { monitor: u16, client: u16 },
    #[error("the pod's monitor does not know operation {op}: recreate the pod")]
    UnknownOperation { op: u16 },
    #[error("the monitor could not read the request: {reason}")]
    Malformed { reason: String },
    #[error("the monitor got {got} of {sent} descriptors: its limit of open files is reached")]
    DescriptorsLost { sent: u16, got: u16 },
    #[error("the pod is not open yet")]
    NotOpen,
    #[error("the pod is open already")]
    AlreadyOpen,
    #[error("opening the pod failed halfway: only shutdown is possible")]
    OpenFailed,
    #[error("no container {container} in this pod")]
    UnknownContainer { container: String },
    #[error("container {container} exists in this pod already")]
    ContainerExists { container: String },
    #[error("container {container} is not running")]
    NotRunning { container: String },
    #[error("container {container} is still running")]
    StillRunning { container: String },
    #[error("no exec {exec} of this connection")]
    UnknownExec { exec: u64 },
    #[error("exec {exec} exists on this connection already")]
    ExecExists { exec: u64 },
    #[error("{count} containers are still running in this pod")]
    ContainersRunning { count: u32 },
    #[error("container {container} has no terminal")]
    NoTerminal { container: String },
    #[error("container {container} has no open stdin")]
    NoStdin { container: String },
    #[error("the pod has no network of its own")]
    NoNetwork,
    #[error("{0}")]
    Stage(StageError),
    #[error("{action}: {}", std::io::Error::from_raw_os_error(*errno))]
    System { action: String, errno: i32 },
    #[error("sysctl {name}: {reason}")]
    Sysctl { name: String, reason: String },
    #[error("the pod is being shut down")]
    ShuttingDown,
    #[error("make the pod's user namespace: {reason}")]
    UserNamespace { reason: String },
}

impl From<SysctlError> for Failure {
    fn from(error: SysctlError) -> Self {
        Self::Sysctl { name: error.name, reason: error.reason }
    }
}

impl Failure {
    /// The body of the failed response.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        codec::to_bytes(self)
    }

    /// Decodes the output of [`encode`](Self::encode).
    ///
    /// # Errors
    /// [`Malformed`], also for a failure that only a newer monitor knows.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        codec::from_bytes(body)
    }
}
