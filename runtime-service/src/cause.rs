//! The causes of failed stages.

use std::io;
use std::path::PathBuf;

use crisp_copy::CopyError;
use crisp_executor::cgroup::{CgroupError, InvalidCgroupPath};
use crisp_executor::compile::CompileError;
use crisp_executor::hook::{HookError, Kind};
use crisp_executor::ids::ContainerId;
use crisp_executor::in_root::InRootError;
use crisp_executor::rootfs::{PartError, RootfsError};
use crisp_executor::user::UserError;
use crisp_image_service::archive::ArchiveError;
use crisp_image_service::store::{FindError, StoreError};
use crisp_operation::record::RecordError;
use crisp_operation::{Busy, Interrupted, StatusError};
use crisp_sandbox::NotReady;
use crisp_sandbox::link::LinkError;
use rustix::io::Errno;

use crate::cdi::CdiError;
use crate::container::state::Refusal;
use crate::spec::SpecError;

pub type Failure = crisp_operation::Failure<Cause>;
pub type Operation = crisp_operation::Operation<Cause>;
pub type StageFailure = crisp_operation::StageFailure<Cause>;
pub type Steps = crisp_operation::Steps<Cause>;

/// The cause of a stage's failure.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    User(#[from] UserError),
    #[error(transparent)]
    Image(#[from] InRootError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Archive(#[from] Box<ArchiveError>),
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    PodNotReady(#[from] NotReady),
    #[error(
        "layers of its image {image} are gone: pull the image, then remove this container and create it again"
    )]
    LayersGone { image: String },
    #[error("the image names {count} volumes (VOLUME): a container can have {most} at most")]
    Volumes { count: usize, most: usize },
    #[error(
        "the files of the image's volumes (VOLUME) would fill the disk of {}: free some space, or mount other volumes \
         on their paths", path.display()
    )]
    NoRoomForVolumes { path: PathBuf },
    #[error("the image {image} for {}: {cause}", place.display())]
    MountedImage { image: String, place: PathBuf, cause: Box<Cause> },
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(transparent)]
    Part(#[from] PartError),
    #[error(transparent)]
    Cdi(#[from] Box<CdiError>),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error(
        "the CDI devices have {kind} hooks, which cannot reach the container's files in a pod with a user namespace: \
         give the pod hostUsers: true"
    )]
    HookInUserNamespace { kind: Kind },
    #[error("its root file system is read-only: nothing can be copied to it while it does not run")]
    ReadOnlyRoot,
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error("its pod has been removed: remove the container too")]
    PodGone,
    #[error("the container {} whose PID namespace it joins does not run: start that one first", target.short())]
    TargetNotRunning { target: ContainerId },
    #[error("the container was stopped while it started")]
    Stopped,
    #[error("the container was stopped or unpaused while its files were read: commit it again")]
    Moved,
    #[error("cannot {action}: {}", io::Error::from(*errno))]
    System { action: &'static str, errno: Errno },
    #[error(transparent)]
    Busy(#[from] Busy),
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

impl From<StatusError<Refusal>> for Cause {
    fn from(error: StatusError<Refusal>) -> Self {
        match error {
            StatusError::Refused(refusal) => Self::Refused(refusal),
            StatusError::Record(record) => Self::Record(record),
        }
    }
}

impl From<InvalidCgroupPath> for Cause {
    fn from(error: InvalidCgroupPath) -> Self {
        Self::Cgroup(error.into())
    }
}

impl Cause {
    /// Adds the file to an I/O error.
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }

    /// Adds the purpose of a failed system call.
    pub fn system(action: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::System { action, errno }
    }
}
