//! Which stage of a start failed, on what, and why.

use std::ffi::CStr;
use std::fmt;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// The steps between a plan and its process. Their positions travel between monitor and server: new
/// ones go to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    PodRoot,
    Descriptors,
    JoinPidNamespace,
    Clone,
    JoinCgroup,
    JoinNamespaces,
    Proc,
    OomScore,
    AppArmor,
    AttachRoot,
    Mount,
    Device,
    Link,
    MaskPath,
    ReadonlyPath,
    Terminal,
    WorkingDirectory,
    SwitchRoot,
    Stdio,
    Limit,
    User,
    Capabilities,
    Seccomp,
    CloseDescriptors,
    Exec,
    SessionKeyring,
    CpuAffinity,
    UserNamespace,
    StartGate,
    Hostname,
    Hook,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PodRoot => "make the pod's root",
            Self::Descriptors => "read descriptors",
            Self::JoinPidNamespace => "join PID namespace",
            Self::Clone => "clone",
            Self::JoinCgroup => "join cgroup",
            Self::JoinNamespaces => "join namespaces",
            Self::Proc => "open private /proc",
            Self::OomScore => "set OOM score",
            Self::AppArmor => "set AppArmor profile",
            Self::AttachRoot => "attach root",
            Self::Mount => "mount",
            Self::Device => "make device",
            Self::Link => "make link",
            Self::MaskPath => "mask",
            Self::ReadonlyPath => "make read-only",
            Self::Terminal => "open terminal",
            Self::WorkingDirectory => "working directory",
            Self::SwitchRoot => "switch root",
            Self::Stdio => "connect standard streams",
            Self::Limit => "set limit",
            Self::User => "set user",
            Self::Capabilities => "set capabilities",
            Self::Seccomp => "load seccomp filter",
            Self::CloseDescriptors => "close descriptors",
            Self::Exec => "exec",
            Self::SessionKeyring => "join session keyring",
            Self::CpuAffinity => "reset CPU affinity",
            Self::UserNamespace => "enter user namespace",
            Self::StartGate => "wait for the start",
            Self::Hostname => "set host name",
            Self::Hook => "run hook",
        })
    }
}

/// A stage that failed. `detail` says on what and why, errno in words included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{stage} {detail}")]
pub struct StageError {
    pub stage: Stage,
    /// The kernel's number for the failure; 0 where it was not the kernel's.
    pub errno: i32,
    pub detail: String,
}

impl StageError {
    /// `subject: the error in words`.
    #[must_use]
    pub fn new(stage: Stage, errno: Errno, subject: impl fmt::Display) -> Self {
        Self { stage, errno: errno.raw_os_error(), detail: format!("{subject}: {}", words(errno)) }
    }

    /// When more is known than the error number says.
    #[must_use]
    pub fn explained(stage: Stage, errno: Errno, detail: impl Into<String>) -> Self {
        Self { stage, errno: errno.raw_os_error(), detail: detail.into() }
    }
}

/// Turns an error number into a [`StageError`] where the stage and its subject are known.
pub(crate) trait At<T> {
    fn at(self, stage: Stage, subject: impl fmt::Display) -> Result<T, StageError>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, stage: Stage, subject: impl fmt::Display) -> Result<T, StageError> {
        self.map_err(|errno| StageError::new(stage, errno, subject))
    }
}

/// A path or a name as it is shown in an error.
pub(crate) struct Quoted<'a>(pub &'a CStr);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.to_string_lossy())
    }
}

/// The error as the C library words it, in this project's lower case.
pub(crate) fn words(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_stage_subject_and_reason() {
        let error = StageError::new(Stage::Mount, Errno::ROFS, "\"/etc/hosts\"");
        assert_eq!(error.to_string(), "mount \"/etc/hosts\": read-only file system");
        assert_eq!(error.errno, 30);
    }

    #[test]
    fn errors_travel_as_bytes() {
        let error = StageError::explained(Stage::Exec, Errno::NOENT, "\"/x\": gone");
        let bytes = postcard::to_allocvec(&error).unwrap();
        assert_eq!(postcard::from_bytes::<StageError>(&bytes).unwrap(), error);
    }
}
