//! The pod's volumes on the host: empty folders, folders in memory, files made from ConfigMaps and Secrets,
//! named volumes, and existing paths.
//!
//! | | where | deleted |
//! |---|---|---|
//! | emptyDir, configMap, secret, downwardAPI, projected | in the pod's folder; secrets in memory | with the pod |
//! | persistentVolumeClaim | `standalone/volumes/NAME` in the server's root; `NAMESPACE_NAME` but for the namespace default | never by a pod |
//! | hostPath | at its path | never |
//! | image | with the layers | with the container |

pub mod folder;
mod host_path;
pub mod labels;
pub mod mount_table;
mod own_thread;
mod projected;
mod remove;
mod size;
mod sub_path;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;

use super::manifest::{Objects, Pod, Volume, VolumeSource};
use super::pod_fields::PodFields;
use crate::server::layout;
use folder::{is_mount, make_whole, mount_memory, private_folder, share};

pub use own_thread::{NoResult, in_own_thread};
pub use remove::remove_folder;
pub use size::exceeded;
pub use sub_path::Part;

/// The reason why a volume cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The file at a hostPath does not have the type of the manifest.
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
    #[error("volume {name}: {source} within {} s", .after.as_secs())]
    NoAnswer {
        /// The volume.
        name: String,
        /// The deadline.
        after: Duration,
        /// The reason why there is no result.
        source: NoResult,
    },
    /// An abandoned thread still works there.
    #[error("volumes: {0}")]
    Busy(NoResult),
    /// A claim that no document makes and for which no folder exists.
    #[error(
        "volume {name}: there is no PersistentVolumeClaim {claim:?} in the manifests, and no named volume in {path}"
    )]
    NoClaim {
        /// The volume.
        name: String,
        /// The claim.
        claim: String,
        /// The path at which it would be.
        path: PathBuf,
    },
    /// A folder or file cannot be made.
    #[error("volume {name}: cannot make {path}: {source}")]
    Make {
        /// The volume.
        name: String,
        /// The path of the folder or file.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
}

/// The data from which volumes are made.
#[derive(Debug, Clone)]
pub struct VolumeRequest {
    pub pod: Pod,
    pub objects: std::sync::Arc<Objects>,
    pub fields: PodFields,
    /// The folder for the volumes of this pod.
    pub folder: PathBuf,
    /// The folder for named volumes.
    pub named: PathBuf,
    pub existing: Existing,
}

/// How an existing volume of the pod is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It may belong to another pod.
    Refuse,
    /// The pod has run before, and keeps its emptyDirs.
    Keep,
    /// The pod runs: all of its volumes exist.
    Use,
}

/// The path of each volume.
#[derive(Debug)]
pub struct Volumes {
    folder: PathBuf,
    paths: BTreeMap<String, PathBuf>,
    /// Folders that this call made.
    made: Vec<PathBuf>,
}

impl Volumes {
    /// Makes the volumes in its own thread with a deadline: paths of the host may be on a file system that
    /// does not answer. A thread that missed its deadline removes what it made.
    ///
    /// # Errors
    /// [`VolumeError`]; everything that this call made is removed then.
    pub async fn prepare_within(deadline: Duration, request: VolumeRequest) -> Result<Self, VolumeError> {
        let (report, mut current) = watch::channel(String::new());
        let folder = request.folder.clone();
        let work = move |is_given_up: &dyn Fn() -> bool| {
            Self::prepare_with(&request, |name| {
                report.send_replace(name.to_owned());
                !is_given_up()
            })
        };
        let undo = |unwanted: Result<Self, VolumeError>| unwanted.iter().for_each(Self::undo);
        let prepared = in_own_thread(&folder, deadline, work, undo).await;
        prepared.unwrap_or_else(|source| match source {
            NoResult::Busy => Err(VolumeError::Busy(source)),
            NoResult::NoAnswer | NoResult::Thread(_) => {
                let name = current.borrow_and_update().clone();
                Err(VolumeError::NoAnswer { name, after: deadline, source })
            }
        })
    }

    /// The volumes of a pod in which nothing is started.
    pub fn none(folder: PathBuf) -> Self {
        Self { folder, paths: BTreeMap::new(), made: Vec::new() }
    }

    /// `begin` gets the name of each volume; when it returns false, no more volumes are made.
    fn prepare_with(request: &VolumeRequest, begin: impl Fn(&str) -> bool) -> Result<Self, VolumeError> {
        let mut all = Self::none(request.folder.clone());
        for volume in &request.pod.volumes {
            if !begin(&volume.name) {
                break;
            }
            match all.prepare_one(request, volume) {
                Ok(path) => all.paths.extend(path.map(|path| (volume.name.clone(), path))),
                Err(error) => {
                    all.undo();
                    return Err(error);
                }
            }
        }
        Ok(all)
    }

    /// Removes only the folders that were made: the others may be in use by another pod.
    pub fn undo(&self) {
        for path in &self.made {
            if let Err(error) = remove_folder(path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove a volume");
            }
        }
        // Fails when they are not empty, which is fine.
        for folder in self.folder.ancestors().take(2) {
            let _ = fs::remove_dir(folder);
        }
    }

    /// The host's path of a volume; None for an image.
    pub fn path(&self, name: &str) -> Option<&Path> {
        self.paths.get(name).map(PathBuf::as_path)
    }

    fn prepare_one(
        &mut self,
        request: &VolumeRequest,
        volume: &Volume,
    ) -> Result<Option<PathBuf>, VolumeError> {
        let own = layout::run_volume(&request.folder, &volume.name);
        let failed = |source| VolumeError::Make { name: volume.name.clone(), path: own.clone(), source };
        match &volume.source {
            VolumeSource::Image { .. } => return Ok(None),
            VolumeSource::HostPath { path, .. } if request.existing == Existing::Use => {
                return Ok(Some(path.clone()));
            }
            VolumeSource::HostPath { path, kind } => {
                return host_path::check(&volume.name, path, *kind).map(Some);
            }
            VolumeSource::Claim { name, .. } => return claim(request, volume, name).map(Some),
            VolumeSource::EmptyDir { .. } | VolumeSource::Projected(_) => {}
        }
        if request.existing == Existing::Use {
            return Ok(Some(own));
        }
        private_folder(&request.folder).map_err(failed)?;
        match &volume.source {
            VolumeSource::EmptyDir { memory, size } => {
                let group = request.pod.security.fs_group;
                let kept = request.existing == Existing::Keep && own.exists();
                if !kept {
                    self.make(&own, group).map_err(failed)?;
                }
                if *memory && !is_mount(&own).map_err(failed)? {
                    mount_memory(&own, *size, 0o777, group).map_err(failed)?;
                }
            }
            VolumeSource::Projected(files) => {
                if request.existing == Existing::Keep {
                    remove_folder(&own).map_err(failed)?;
                }
                self.make(&own, None).map_err(failed)?;
                projected::write(&own, files, request).map_err(failed)?;
            }
            VolumeSource::HostPath { .. } | VolumeSource::Claim { .. } | VolumeSource::Image { .. } => {}
        }
        Ok(Some(own))
    }

    fn make(&mut self, path: &Path, group: Option<u32>) -> io::Result<()> {
        make_whole(path, group)?;
        self.made.push(path.to_owned());
        Ok(())
    }
}

/// A named volume. The document of its claim makes it; it outlives the pods.
fn claim(request: &VolumeRequest, volume: &Volume, claim: &str) -> Result<PathBuf, VolumeError> {
    let name = || volume.name.clone();
    let path = layout::claimed_volume(&request.named, &request.pod.namespace, claim);
    let there = path.is_dir();
    if !there && !request.objects.has_claim(&request.pod.namespace, claim) {
        return Err(VolumeError::NoClaim { name: name(), claim: claim.to_owned(), path });
    }
    let group = request.pod.security.fs_group;
    let is_read_only = volume.source.is_read_only();
    let made = || match group {
        _ if !there => {
            private_folder(&request.named)?;
            match make_whole(&path, group) {
                // Another pod with the same claim was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
                made => made,
            }
        }
        Some(group) if !is_read_only => share(&path, group),
        _ => Ok(()),
    };
    made().map_err(|source| VolumeError::Make { name: name(), path: path.clone(), source })?;
    Ok(path)
}

#[cfg(test)]
mod tests;
