//! The errors of requests, and the only mapping to gRPC codes.

use std::sync::Arc;
use std::time::Duration;

use crisp_copy::CopyError;
use crisp_executor::cgroup::CgroupError;
use crisp_executor::compile::CompileError;
use crisp_executor::ids::ContainerId;
use crisp_executor::rootfs::{PartError, RootfsError};
use crisp_image_service::archive::ArchiveError;
use crisp_image_service::store;
use crisp_operation::{Busy, Interrupted};
use crisp_sandbox::FindError as FindPodError;
use crisp_sandbox::NotReady;
use crisp_sandbox::link::LinkError;
use crisp_sandbox::network::PodCidrError;
use crisp_sandbox::systemd::SystemdError;
use crisp_sandbox::{JoinError, PodCause, PodError};
use crisp_streaming::TooManySessions;
use rustix::io::Errno;
use tonic::{Code, Status};

use crate::cause::{Cause, Failure};
use crate::cdi::CdiError;
use crate::container::state::Refusal;
use crate::container::table::LookupError;
use crate::convert::ConvertError;
use crate::spec::SpecError;

/// A request that failed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error(transparent)]
    Convert(#[from] ConvertError),
    #[error(transparent)]
    Container(#[from] LookupError),
    #[error(transparent)]
    FindPod(#[from] FindPodError),
    #[error("{0}")]
    Pod(Arc<PodError>),
    #[error(transparent)]
    PodNotReady(#[from] NotReady),
    #[error(transparent)]
    Image(#[from] store::FindError),
    #[error(transparent)]
    Limits(#[from] CgroupError),
    #[error("container {name} exists already as {id} and {state}: remove it, or ask with a higher attempt")]
    NameTaken { name: String, id: ContainerId, state: &'static str },
    #[error("container {id}: {refusal}")]
    Refused { id: ContainerId, refusal: Refusal },
    #[error(transparent)]
    Failed(#[from] Box<Failure>),
    /// kubelet recognises this failure by the name ErrImageVolumeMountFailed of cri-api.
    #[error("ImageVolumeMountFailed: {0}")]
    MountedImage(Box<Failure>),
    #[error("this host cannot run pods with a user namespace: {why}")]
    NoUserNamespaces { why: String },
    #[error("container {id} was stopped before its start began")]
    Stopped { id: ContainerId },
    #[error("container {id}: {busy}; try again when that has ended")]
    Busy { id: ContainerId, busy: Busy },
    #[error("command {command:?} in container {id} did not end within {after:?}; it was killed")]
    ExecDeadline { id: ContainerId, command: String, after: Duration },
    #[error("{what} is not supported by this server{hint}")]
    Unsupported { what: &'static str, hint: &'static str },
    #[error("container {id}: cannot copy: {error}")]
    Copy { id: ContainerId, error: CopyError },
    #[error("container {id}: cannot list its changes: {}", std::io::Error::from(*errno))]
    Changes { id: ContainerId, errno: Errno },
    #[error("the client has taken nothing for {after:?}, so the list is not complete")]
    SlowClient { after: Duration },
    #[error("{most} copies are under way already: wait for one to end")]
    Copies { most: usize },
    #[error(transparent)]
    PodCidr(#[from] PodCidrError),
    #[error(transparent)]
    Sessions(#[from] TooManySessions),
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The failure of an operation that several requests waited for.
    #[error(transparent)]
    Shared(Arc<RuntimeError>),
}

impl From<Arc<Self>> for RuntimeError {
    fn from(error: Arc<Self>) -> Self {
        Self::Shared(error)
    }
}

impl From<Failure> for RuntimeError {
    fn from(failure: Failure) -> Self {
        match failure.failure.cause {
            Cause::MountedImage { .. } => Self::MountedImage(Box::new(failure)),
            _ => Self::Failed(Box::new(failure)),
        }
    }
}

impl From<Arc<PodError>> for RuntimeError {
    fn from(error: Arc<PodError>) -> Self {
        Self::Pod(error)
    }
}

impl From<PodError> for RuntimeError {
    fn from(error: PodError) -> Self {
        Self::Pod(Arc::new(error))
    }
}

impl From<RuntimeError> for Status {
    fn from(error: RuntimeError) -> Self {
        let (code, message) = (code(&error), error.to_string());
        if code == Code::Internal && !has_entry_elsewhere(&error) {
            tracing::warn!(%message, "a request failed");
        } else {
            tracing::debug!(%message, ?code, "a request was refused");
        }
        Self::new(code, message)
    }
}

/// Whether the operation has its own entry in the journal, or the container is only in the wrong state for the request and
/// continues.
pub(crate) fn has_entry_elsewhere(error: &RuntimeError) -> bool {
    match error {
        RuntimeError::Failed(_) | RuntimeError::MountedImage(_) | RuntimeError::Refused { .. } => true,
        RuntimeError::Shared(error) => has_entry_elsewhere(error),
        RuntimeError::Pod(error) => matches!(**error, PodError::Failed(_) | PodError::Teardown { .. }),
        _ => false,
    }
}

/// The whole mapping. Exhaustive on purpose: a new kind of error has to choose its code.
fn code(error: &RuntimeError) -> Code {
    match error {
        RuntimeError::Convert(ConvertError::Invalid { .. }) => Code::InvalidArgument,
        RuntimeError::Convert(ConvertError::Unsupported { .. }) | RuntimeError::Unsupported { .. } => {
            Code::Unimplemented
        }
        RuntimeError::Container(LookupError::Unknown(_)) => Code::NotFound,
        RuntimeError::Container(LookupError::Ambiguous(_)) => Code::InvalidArgument,
        RuntimeError::FindPod(FindPodError::None { .. }) => Code::NotFound,
        RuntimeError::FindPod(FindPodError::Several { .. }) => Code::InvalidArgument,
        RuntimeError::Pod(error) => pod_code(error),
        RuntimeError::PodNotReady(_)
        | RuntimeError::Refused { .. }
        | RuntimeError::NoUserNamespaces { .. } => Code::FailedPrecondition,
        RuntimeError::Image(error) => find_code(error),
        RuntimeError::Limits(error) => cgroup_code(error),
        RuntimeError::NameTaken { .. } => Code::AlreadyExists,
        RuntimeError::Failed(failure) | RuntimeError::MountedImage(failure) => {
            cause_code(&failure.failure.cause)
        }
        RuntimeError::Busy { .. } | RuntimeError::Stopped { .. } => Code::Aborted,
        RuntimeError::ExecDeadline { .. } | RuntimeError::SlowClient { .. } => Code::DeadlineExceeded,
        RuntimeError::PodCidr(PodCidrError::Invalid { .. }) => Code::InvalidArgument,
        RuntimeError::PodCidr(PodCidrError::Failed { .. }) => Code::FailedPrecondition,
        RuntimeError::Copy { error, .. } => copy_code(error),
        RuntimeError::Changes { .. } => Code::Internal,
        RuntimeError::Sessions(_) | RuntimeError::Copies { .. } => Code::ResourceExhausted,
        RuntimeError::Interrupted(interrupted) => interrupted_code(interrupted),
        RuntimeError::Shared(error) => code(error),
    }
}

fn find_code(error: &store::FindError) -> Code {
    match error {
        store::FindError::Unknown(_) => Code::NotFound,
        store::FindError::Ambiguous { .. } | store::FindError::Invalid(_) => Code::InvalidArgument,
    }
}

fn pod_code(error: &PodError) -> Code {
    match error {
        PodError::Invalid(_) => Code::InvalidArgument,
        PodError::Join(JoinError::Unknown { .. }) => Code::NotFound,
        PodError::Join(JoinError::NotReady(_)) => Code::FailedPrecondition,
        PodError::Exists { .. } => Code::AlreadyExists,
        PodError::LeftOver { error, .. } => pod_code(error),
        PodError::Failed(failure) => pod_cause_code(&failure.failure.cause),
        PodError::Teardown { failures, .. } => {
            failures.first().map_or(Code::Internal, |f| pod_cause_code(&f.cause))
        }
        PodError::Busy { .. } => Code::DeadlineExceeded,
        PodError::Interrupted { .. } => Code::Aborted,
    }
}

fn pod_cause_code(cause: &PodCause) -> Code {
    match cause {
        PodCause::Interrupted(Interrupted::Deadline { .. }) => Code::DeadlineExceeded,
        PodCause::Interrupted(Interrupted::Cancelled | Interrupted::ShuttingDown) => Code::Aborted,
        PodCause::Interrupted(Interrupted::Panicked { .. } | Interrupted::Fault) => Code::Internal,
        PodCause::Link(error) => link_code(error),
        PodCause::Cgroup(error) => cgroup_code(error),
        PodCause::Systemd(error) => systemd_code(error),
        PodCause::Refused(_) => Code::FailedPrecondition,
        PodCause::Io(_) | PodCause::Record(_) | PodCause::Spawn(_) | PodCause::Network(_) => Code::Internal,
    }
}

fn systemd_code(error: &SystemdError) -> Code {
    match error {
        SystemdError::Silent { .. } | SystemdError::Crowded { .. } => Code::DeadlineExceeded,
        SystemdError::Connect { .. } | SystemdError::Broken { .. } | SystemdError::HolderEnded { .. } => {
            Code::Unavailable
        }
        SystemdError::Elsewhere { .. } => Code::FailedPrecondition,
        SystemdError::Refused { .. }
        | SystemdError::Malformed { .. }
        | SystemdError::Error { .. }
        | SystemdError::Job { .. } => Code::Internal,
    }
}

fn cause_code(cause: &Cause) -> Code {
    match cause {
        Cause::Spec(error) => spec_code(error),
        Cause::User(_) | Cause::Image(_) | Cause::Part(PartError::Path(_)) | Cause::Volumes { .. } => {
            Code::InvalidArgument
        }
        Cause::MountedImage { cause, .. } => cause_code(cause),
        Cause::Find(error) => find_code(error),
        Cause::Cdi(error) => cdi_code(error),
        Cause::Refused(_)
        | Cause::PodNotReady(_)
        | Cause::HookInUserNamespace { .. }
        | Cause::LayersGone { .. }
        | Cause::PodGone
        | Cause::ReadOnlyRoot
        | Cause::TargetNotRunning { .. } => Code::FailedPrecondition,
        // A property of the host, not of the request.
        Cause::Rootfs(RootfsError::Idmap { .. }) => Code::FailedPrecondition,
        Cause::Copy(error) => copy_code(error),
        Cause::Archive(error) => archive_code(error),
        Cause::Cgroup(error) => cgroup_code(error),
        Cause::Compile(error) => compile_code(error),
        Cause::Link(error) => link_code(error),
        Cause::Interrupted(interrupted) => interrupted_code(interrupted),
        Cause::NoRoomForVolumes { .. } => Code::ResourceExhausted,
        Cause::Busy(_) | Cause::Stopped | Cause::Moved => Code::Aborted,
        Cause::File { .. }
        | Cause::Record(_)
        | Cause::Store(_)
        | Cause::Rootfs(_)
        | Cause::Part(PartError::Kernel { .. })
        | Cause::Hook(_)
        | Cause::System { .. } => Code::Internal,
    }
}

fn archive_code(error: &ArchiveError) -> Code {
    match error {
        ArchiveError::Find(error) => find_code(error),
        ArchiveError::Reference(_) | ArchiveError::Change(_) => Code::InvalidArgument,
        // The container's own image.
        ArchiveError::Store(_) => Code::FailedPrecondition,
        ArchiveError::TooLarge(_)
        | ArchiveError::TooMany { .. }
        | ArchiveError::DiskFull
        | ArchiveError::NoRoom { .. } => Code::ResourceExhausted,
        ArchiveError::Layer(_)
        | ArchiveError::Image { .. }
        | ArchiveError::Tar(_)
        | ArchiveError::Received(_)
        | ArchiveError::Compressed(_)
        | ArchiveError::Io { .. }
        | ArchiveError::NoImages
        | ArchiveError::Missing(_)
        | ArchiveError::Document { .. }
        | ArchiveError::Digest { .. } => Code::Internal,
    }
}

fn cdi_code(error: &CdiError) -> Code {
    match error {
        CdiError::Unsupported { .. } => Code::Unimplemented,
        // Another host may have the device.
        CdiError::Unknown { .. } | CdiError::Twice { .. } | CdiError::Invalid { .. } => {
            Code::FailedPrecondition
        }
    }
}

fn copy_code(error: &CopyError) -> Code {
    match error {
        CopyError::Missing { .. } => Code::NotFound,
        CopyError::NotADirectory { .. }
        | CopyError::InTheWay { .. }
        | CopyError::Mounted { .. }
        | CopyError::NotMounted { .. }
        | CopyError::TooDeep { .. }
        | CopyError::NoOwner { .. }
        | CopyError::Users(_)
        | CopyError::Io { .. } => Code::FailedPrecondition,
        CopyError::Archive(_)
        | CopyError::Empty
        | CopyError::Damaged { .. }
        | CopyError::Escapes { .. }
        | CopyError::Device { .. } => Code::InvalidArgument,
    }
}

fn interrupted_code(interrupted: &Interrupted) -> Code {
    match interrupted {
        Interrupted::Deadline { .. } => Code::DeadlineExceeded,
        Interrupted::Cancelled => Code::Aborted,
        Interrupted::ShuttingDown => Code::Unavailable,
        Interrupted::Panicked { .. } | Interrupted::Fault => Code::Internal,
    }
}

fn spec_code(error: &SpecError) -> Code {
    match error {
        SpecError::NoCommand
        | SpecError::EmptyProgram
        | SpecError::Device { .. }
        | SpecError::NotADevice { .. }
        | SpecError::Seccomp(_)
        | SpecError::NotMapped { .. }
        | SpecError::TooLarge(_)
        | SpecError::Ulimits(_)
        | SpecError::WorkingDir { .. } => Code::InvalidArgument,
        // Another host may support it.
        SpecError::Capability { .. } | SpecError::AppArmor(_) => Code::FailedPrecondition,
    }
}

fn compile_code(error: &CompileError) -> Code {
    match error {
        CompileError::Invalid { .. } | CompileError::Seccomp(_) => Code::InvalidArgument,
        CompileError::Unsupported { .. } => Code::Unimplemented,
        CompileError::Source { .. } => Code::FailedPrecondition,
        CompileError::Cgroup(error) => cgroup_code(error),
    }
}

fn cgroup_code(error: &CgroupError) -> Code {
    match error {
        CgroupError::Path(_) | CgroupError::Invalid { .. } => Code::InvalidArgument,
        CgroupError::NotFound { .. } | CgroupError::Gone { .. } | CgroupError::NoController { .. } => {
            Code::FailedPrecondition
        }
        CgroupError::NotFrozen { .. } => Code::DeadlineExceeded,
        CgroupError::NoHierarchy
        | CgroupError::Host { .. }
        | CgroupError::Create { .. }
        | CgroupError::Write { .. }
        | CgroupError::Read { .. }
        | CgroupError::StillPopulated { .. }
        | CgroupError::Remove { .. }
        | CgroupError::DeviceFilter { .. } => Code::Internal,
    }
}

fn link_code(error: &LinkError) -> Code {
    match error {
        // The command is missing in the image, not executable, or of another architecture.
        LinkError::Stage(_) => Code::FailedPrecondition,
        LinkError::Deadline { .. } => Code::DeadlineExceeded,
        LinkError::Connect { .. } | LinkError::Gone { .. } => Code::Unavailable,
        LinkError::TooManyDescriptors { .. } => Code::InvalidArgument,
        LinkError::Unsent { error: crisp_sandbox::link::EncodeError::Unsupported { .. }, .. } => {
            Code::FailedPrecondition
        }
        LinkError::Unsent { .. }
        | LinkError::Refused { .. }
        | LinkError::Protocol { .. }
        | LinkError::System { .. } => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cause::StageFailure;

    #[test]
    fn codes_that_clients_act_on() {
        let failed = |cause| {
            RuntimeError::from(Failure {
                subject: "container c".into(),
                operation: "start",
                failure: StageFailure { stage: "s", cause },
                undo: vec![],
                pending: None,
            })
        };
        for (error, expected) in [
            (LookupError::Unknown("x".into()).into(), Code::NotFound),
            (failed(Interrupted::Deadline { after: Duration::ZERO }.into()), Code::DeadlineExceeded),
            (failed(SpecError::NoCommand.into()), Code::InvalidArgument),
            (failed(Cause::LayersGone { image: "i".into() }), Code::FailedPrecondition),
            (
                failed(Cause::MountedImage {
                    image: "i".into(),
                    place: "/data".into(),
                    cause: Box::new(store::FindError::Unknown("i".into()).into()),
                }),
                Code::NotFound,
            ),
            (RuntimeError::Shared(Arc::new(failed(SpecError::NoCommand.into()))), Code::InvalidArgument),
        ] {
            assert_eq!(code(&error), expected, "{error}");
        }
    }
}
