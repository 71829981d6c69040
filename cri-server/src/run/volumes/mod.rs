//! The pod's volumes on the host: empty folders, folders in memory, and paths that are there already.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crisp_operation::record;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tokio::sync::{oneshot, watch};

use super::manifest::{HostPathKind, Volume, VolumeSource};

/// Why a volume cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// What is at a hostPath is not what the manifest wants there.
    #[error("volume {name}: {path} is not there, or is not a {wanted}")]
    HostPath {
        /// The volume.
        name: String,
        /// The path on the host.
        path: PathBuf,
        /// The manifest's `type`.
        wanted: &'static str,
    },
    /// Its file system is dead, or very slow.
    #[error("volume {name}: its file system does not answer within {} s", .after.as_secs())]
    NoAnswer {
        /// The volume.
        name: String,
        /// The deadline.
        after: Duration,
    },
    /// A folder or file cannot be made.
    #[error("volume {name}: cannot make {path}: {source}")]
    Make {
        /// The volume.
        name: String,
        /// What was to be made.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
}

/// Where each volume is. Removed with [`Volumes::remove`].
#[derive(Debug)]
pub struct Volumes {
    folder: PathBuf,
    paths: BTreeMap<String, PathBuf>,
}

impl Volumes {
    /// Makes what has to be made, below `folder`. In a thread of its own, with a deadline: paths of the host
    /// may be on a file system that does not answer. What a thread makes that is not waited for any more, it
    /// removes.
    ///
    /// # Errors
    /// [`VolumeError`]; nothing is left then of what this call made.
    pub async fn prepare_within(
        deadline: Duration,
        volumes: &[Volume],
        folder: PathBuf,
    ) -> Result<Self, VolumeError> {
        let (report, mut current) = watch::channel(String::new());
        let (result, prepared) = oneshot::channel();
        let volumes = volumes.to_vec();
        tokio::task::spawn_blocking(move || {
            let prepared = Self::prepare_with(&volumes, folder, |name| drop(report.send(name.to_owned())));
            if let Err(Ok(unwanted)) = result.send(prepared) {
                unwanted.remove();
            }
        });
        match tokio::time::timeout(deadline, prepared).await {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(_)) | Err(_) => {
                Err(VolumeError::NoAnswer { name: current.borrow_and_update().clone(), after: deadline })
            }
        }
    }

    fn prepare_with(volumes: &[Volume], folder: PathBuf, begin: impl Fn(&str)) -> Result<Self, VolumeError> {
        let mut all = Self { folder, paths: BTreeMap::new() };
        for volume in volumes {
            begin(&volume.name);
            match all.prepare_one(volume) {
                Ok(path) => all.paths.insert(volume.name.clone(), path),
                Err(error) => {
                    all.undo(volumes);
                    return Err(error);
                }
            };
        }
        Ok(all)
    }

    /// Removes the folders that were made, and no others: the rest may be in use by another pod.
    fn undo(&self, volumes: &[Volume]) {
        let is_made = |volume: &&Volume| matches!(volume.source, VolumeSource::EmptyDir { .. });
        for path in volumes.iter().filter(is_made).filter_map(|volume| self.path(&volume.name)) {
            if let Err(error) = remove_folder(path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove a volume");
            }
        }
        // Stays when something is in it.
        let _ = fs::remove_dir(&self.folder);
    }

    /// The host's path of a volume.
    pub fn path(&self, name: &str) -> Option<&Path> {
        self.paths.get(name).map(PathBuf::as_path)
    }

    /// Removes what was made. Nothing of a hostPath is touched.
    pub fn remove(&self) {
        if let Err(error) = remove_folder(&self.folder) {
            tracing::warn!(path = %self.folder.display(), %error, "cannot remove the volumes");
        }
    }

    fn prepare_one(&mut self, volume: &Volume) -> Result<PathBuf, VolumeError> {
        match &volume.source {
            VolumeSource::HostPath { path, kind } => host_path(&volume.name, path, *kind),
            VolumeSource::EmptyDir { memory, size } => {
                let path = self.folder.join(&volume.name);
                self.empty_dir(&path, *memory, *size).map_err(|source| VolumeError::Make {
                    name: volume.name.clone(),
                    path: path.clone(),
                    source,
                })?;
                Ok(path)
            }
        }
    }

    fn empty_dir(&mut self, path: &Path, memory: bool, size: Option<u64>) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        fs::DirBuilder::new().create(path)?;
        let fill = || {
            if memory {
                let size = size.map(|bytes| format!("size={bytes}")).unwrap_or_default();
                let data = std::ffi::CString::new(size)?;
                mount("tmpfs", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(&*data))?;
            }
            // For every user in the pod, as a kubelet makes them; the folder above is for root only.
            fs::set_permissions(path, fs::Permissions::from_mode(0o777))
        };
        fill().inspect_err(|_| drop(remove_folder(path)))
    }
}

fn host_path(name: &str, path: &Path, kind: HostPathKind) -> Result<PathBuf, VolumeError> {
    let made = |source| VolumeError::Make { name: name.to_owned(), path: path.to_owned(), source };
    if kind == HostPathKind::Any {
        return Ok(path.to_owned());
    }
    let there = fs::metadata(path).map(|m| m.file_type());
    let is = |what: fn(&fs::FileType) -> bool| there.as_ref().is_ok_and(what);
    let (fits, wanted) = match kind {
        HostPathKind::Any => (true, ""),
        HostPathKind::DirectoryOrCreate => {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(made)?;
            (true, "")
        }
        HostPathKind::FileOrCreate => {
            if there.is_err() {
                fs::OpenOptions::new().append(true).create(true).open(path).map_err(made)?;
            }
            (fs::metadata(path).is_ok_and(|m| m.is_file()), "file")
        }
        HostPathKind::Directory => (is(fs::FileType::is_dir), "directory"),
        HostPathKind::File => (is(fs::FileType::is_file), "file"),
        HostPathKind::Socket => (is(|t| t.is_socket()), "socket"),
        HostPathKind::CharDevice => (is(|t| t.is_char_device()), "character device"),
        HostPathKind::BlockDevice => (is(|t| t.is_block_device()), "block device"),
    };
    if !fits {
        return Err(VolumeError::HostPath { name: name.to_owned(), path: path.to_owned(), wanted });
    }
    Ok(path.to_owned())
}

/// Removes a folder in which volumes are or were. Mounts in it are detached first and their content stays:
/// a privileged container can mount folders of the host into a volume.
///
/// # Errors
/// A mount that cannot be detached; nothing is deleted then. Or a file that cannot be deleted.
pub fn remove_folder(folder: &Path) -> io::Result<()> {
    let folder = match folder.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        folder => folder?,
    };
    // The last mounted first: it may be on top of another.
    for path in mounts_below(&folder)?.iter().rev() {
        unmount(path, UnmountFlags::DETACH)?;
    }
    record::remove_folder(&folder)
}

/// In the order in which they were mounted.
fn mounts_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mounts = fs::read("/proc/self/mountinfo")?;
    let paths =
        mounts.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    Ok(paths.map(unescape).filter(|path| path.starts_with(folder)).collect())
}

/// In proc_pid_mountinfo(5) a space is `\040`.
fn unescape(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let code = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| str::from_utf8(digits).ok());
        let code = code.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { after.get(3..).unwrap_or_default() } else { after };
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests;
