//! The errors of copying files.

use std::io;

use crisp_image_service::TarError;
use rustix::io::Errno;

/// The reason why files cannot be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("{path}: no such file or directory")]
    Missing { path: String },
    #[error("{path} is not a directory")]
    NotADirectory { path: String },
    #[error("{path} is a directory: a file cannot take its place")]
    InTheWay { path: String },
    #[error("{path} is mounted: only the content of a file can take its place")]
    Mounted { path: String },
    #[error("{path} is in a volume or another mount, which exists only while the container runs: start it")]
    NotMounted { path: String },
    #[error(
        "{path}: its owner {uid}:{gid} does not exist in the user namespace of the pod: copy it without its owner"
    )]
    NoOwner { path: String, uid: u32, gid: u32 },
    #[error("act as root of the pod's user namespace: {0}")]
    Users(io::Error),
    #[error("{path} is nested in more than {max} directories")]
    TooDeep { path: String, max: usize },
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
    /// Reading or writing the archive itself failed; its reader or writer has no path.
    #[error("the archive: {0}")]
    Archive(io::Error),
    #[error("the archive is empty")]
    Empty,
    #[error("the archive, after {after:?}: {fault}")]
    Damaged { after: String, fault: TarError },
    #[error("the archive's entry {entry:?} leads out of it with \"..\"")]
    Escapes { entry: String },
    #[error("the archive's entry {entry:?} is a device: only files, directories, links and pipes are copied")]
    Device { entry: String },
}

impl CopyError {
    /// Adds the path to the error of a system call.
    pub(crate) fn at<E: Into<io::Error>>(path: &str) -> impl FnOnce(E) -> Self + '_ {
        move |source| {
            let (path, source) = (path.to_owned(), source.into());
            match Errno::from_io_error(&source) {
                Some(Errno::NOENT) => Self::Missing { path },
                Some(Errno::NOTDIR) => Self::NotADirectory { path },
                _ => Self::Io { path, source },
            }
        }
    }
}
