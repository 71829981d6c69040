//! Mounts a part of a view: the sub path of an image volume.

use std::os::fd::OwnedFd;

use rustix::fs::{CWD, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount, open_tree,
};

use super::PartError;
use crate::in_root;

/// Makes a detached mount of the file or folder at `path`; links end inside the view.
///
/// # Errors
/// When the path does not exist, or a step failed.
pub fn part_of(view: &OwnedFd, path: &str) -> Result<OwnedFd, PartError> {
    // The path is checked first, to distinguish a missing path from a missing feature of the kernel.
    in_root::open(view, path, OFlags::PATH)?;
    match clone(view, path) {
        // Before Linux 6.15 it must be in a mount that is attached in the caller's mount namespace.
        Err(PartError::Kernel { errno: Errno::INVAL, .. }) => attached(view, path),
        result => result,
    }
}

fn clone(view: &OwnedFd, path: &str) -> Result<OwnedFd, PartError> {
    let found = in_root::open(view, path, OFlags::PATH)?;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(&found, c"", flags).map_err(at("open_tree"))
}

/// Does the same in the mount namespace of a temporary thread.
pub(super) fn attached(view: &OwnedFd, path: &str) -> Result<OwnedFd, PartError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("part".to_owned());
        match thread.spawn_scoped(scope, || attach_here(view, path)) {
            Ok(thread) => thread.join().unwrap_or_else(|_| Err(at("thread")(Errno::IO))),
            Err(error) => Err(at("thread")(Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))),
        }
    })
}

fn attach_here(view: &OwnedFd, path: &str) -> Result<OwnedFd, PartError> {
    crate::sys::unshare_mount_namespace().map_err(at("unshare"))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(at("make private"))?;
    // Any folder works; this one always exists.
    move_mount(view, c"", CWD, c"/proc", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(at("move_mount"))?;
    clone(view, path)
}

fn at(step: &'static str) -> impl Fn(Errno) -> PartError {
    move |errno| PartError::Kernel { step, errno }
}
