//! Layers whose files have, in a user namespace, the owners of the image. They are opened through one mount
//! of the folder that contains them all, with the ids of that namespace. The layers themselves stay unchanged
//! and are shared by all pods.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::{RootfsError, read_only_view};
use crate::sys::{MountAttr, mount_setattr};
use crate::user_namespace::{IdMappings, IdRange, UserNamespace};

/// Whether the mount is attached while the layers are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LayersMount {
    Detached,
    /// Over the folder itself, in the caller's own mount namespace.
    Attached,
}

/// Opens the layers; returns them and their mount.
pub(super) fn open(
    layers: &[PathBuf],
    user: BorrowedFd<'_>,
    layers_mount: LayersMount,
) -> Result<(Vec<OwnedFd>, OwnedFd), RootfsError> {
    let folder = folder_of_all(layers);
    let mount = mount(&folder, user, MountAttrFlags::empty())?;
    if layers_mount == LayersMount::Attached {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&mount, c"", CWD, &folder, flags).map_err(failed(&folder, "attach a mount of them"))?;
    }
    let open = |layer: &PathBuf| {
        let below = layer.strip_prefix(&folder).unwrap_or(layer);
        let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(&mount, below, flags, Mode::empty())
            .map_err(|errno| RootfsError::Layer { path: layer.clone(), errno })
    };
    let opened = layers.iter().map(open).collect::<Result<_, _>>()?;
    Ok((opened, mount))
}

/// Whether [`assemble`](super::assemble) can map ids: tried with two folders of the layers' file system.
///
/// # Errors
/// The host lacks a requirement.
pub fn check(folders: &[PathBuf; 2]) -> Result<(), RootfsError> {
    // Any range works.
    let range = IdRange { container: 0, host: 65_536, length: 65_536 };
    let user = UserNamespace::new(IdMappings { uids: vec![range], gids: vec![range] })?;
    read_only_view(folders, Some(user.as_fd())).map(drop)
}

/// Makes the mount of a single layer.
pub(super) fn read_only(layer: &Path, user: BorrowedFd<'_>) -> Result<OwnedFd, RootfsError> {
    mount(layer, user, MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV)
}

/// Makes a detached mount of `folder` with the ids of `user`.
fn mount(folder: &Path, user: BorrowedFd<'_>, attributes: MountAttrFlags) -> Result<OwnedFd, RootfsError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, folder, flags).map_err(failed(folder, "open"))?;
    let mut attr = MountAttr::idmap(user);
    attr.set |= u64::from(attributes.bits());
    mount_setattr(mount.as_fd(), false, &attr).map_err(failed(folder, "map the ids of their owners"))?;
    Ok(mount)
}

fn failed(folder: &Path, step: &'static str) -> impl Fn(Errno) -> RootfsError {
    let folder = folder.to_owned();
    move |errno| {
        let hint = match errno {
            Errno::INVAL if step.starts_with("map") => {
                " (their file system or kernel cannot do so for a pod with a user namespace: keep the images on ext4, xfs or btrfs, or give the pod hostUsers: true)"
            }
            _ => "",
        };
        RootfsError::Idmap { folder: folder.clone(), step, errno, hint }
    }
}

/// The first kernel that can stack layers with mapped ids.
const STACKS: (u32, u32) = (5, 19);

/// Adds an explanation for an older kernel, which only returns EINVAL. `release` is that of the kernel.
pub(super) fn explain(error: RootfsError, release: &str) -> RootfsError {
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let kernel = (numbers.next().unwrap_or(u32::MAX), numbers.next().unwrap_or(0));
    match error {
        RootfsError::Overlay { first, errno: Errno::INVAL, .. } if kernel < STACKS => RootfsError::Idmap {
            folder: folder_of_all(&[first]),
            step: "stack them with mapped ids",
            errno: Errno::INVAL,
            hint: " (this takes Linux 5.19 or later; on this one give the pod hostUsers: true)",
        },
        error => error,
    }
}

/// Returns the deepest folder that contains all layers, or is the only layer.
fn folder_of_all(layers: &[PathBuf]) -> PathBuf {
    let mut folder = layers.first().cloned().unwrap_or_default();
    for layer in layers {
        while !layer.starts_with(&folder) && folder.pop() {}
    }
    folder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_cannot_stack_mapped_layers_is_named() {
        let refused = || RootfsError::Overlay {
            layers: 2,
            first: "/l/1".into(),
            step: "create",
            errno: Errno::INVAL,
            detail: " (dmesg says why)".to_owned(),
        };
        for release in ["5.15.0-91-generic", "5.4.0", "4.18.0-513.el8"] {
            let error = explain(refused(), release);
            assert!(matches!(error, RootfsError::Idmap { .. }), "{release}: {error}");
            assert!(error.to_string().contains("Linux 5.19"), "{error}");
        }
        for release in ["5.19.0", "6.1.0-18-amd64", "unreadable"] {
            assert!(matches!(explain(refused(), release), RootfsError::Overlay { .. }), "{release}");
        }
    }

    #[test]
    fn the_folder_of_all_layers_is_the_deepest() {
        let of = |paths: &[&str]| folder_of_all(&paths.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(of(&["/a/layers/1/fs"]), Path::new("/a/layers/1/fs"));
        assert_eq!(of(&["/a/layers/1/fs", "/a/layers/12/fs"]), Path::new("/a/layers"));
        assert_eq!(of(&["/a/b", "/c"]), Path::new("/"));
    }
}
