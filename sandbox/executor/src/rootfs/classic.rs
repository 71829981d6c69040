//! The old API for mounting an overlay, for kernels before 6.8.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, OpenTreeFlags, mount, mount_change, open_tree};
use rustix::process::chdir;

use super::idmapped::LayersMount;
use super::{Failure, OPTIONS, Parts, RootfsError, VOLATILE};

/// Bytes of options that mount(2) takes, with the zero at their end; pages are never smaller.
const PAGE: usize = 4096;

/// mount(2) needs a mount point: a private one, in the mount namespace of a separate thread.
pub(super) fn build(parts: &Parts<'_>) -> Result<OwnedFd, RootfsError> {
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().name("overlay".to_owned()).spawn_scoped(scope, || mount_here(parts));
        let failed = |errno| parts.error(Failure { step: "thread", errno, detail: String::new() });
        match thread {
            Ok(thread) => thread.join().unwrap_or_else(|_| Err(failed(Errno::IO))),
            Err(error) => Err(failed(Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))),
        }
    })
}

fn mount_here(parts: &Parts<'_>) -> Result<OwnedFd, RootfsError> {
    let at = |step| move |errno| parts.error(Failure { step, errno, detail: String::new() });
    crate::sys::unshare_mount_namespace().map_err(at("unshare"))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(at("make private"))?;
    // Opened only now: a layer must belong to the mount namespace that stacks it.
    let opened = parts.open(LayersMount::Attached)?;
    let place = std::path::absolute(parts.any())
        .map_err(|error| at("mount point")(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    // mount(2) truncates its options at one page without an error, so the names must be short: numbers in
    // this folder. The working folder belongs to this thread since it left the mount namespace.
    chdir(c"/proc/self/fd").map_err(at("enter /proc/self/fd"))?;
    let name = |fd: &OwnedFd| fd.as_raw_fd().to_string();
    let mut options = String::from("lowerdir=");
    options.push_str(&opened.layers.iter().map(name).collect::<Vec<_>>().join(":"));
    if let Some((upper, work)) = &opened.writable {
        options.push_str(&format!(",upperdir={},workdir={}", name(upper), name(work)));
        for (key, value) in OPTIONS {
            options.push_str(&format!(",{key}={value}"));
        }
        options.push(',');
        options.push_str(VOLATILE);
    }
    let options = std::ffi::CString::new(options).map_err(|_| at("mount")(Errno::INVAL))?;
    if options.count_bytes() >= PAGE {
        return Err(at("mount")(Errno::TOOBIG));
    }
    mount("crisp", &place, "overlay", MountFlags::empty(), options.as_c_str()).map_err(at("mount"))?;
    open_tree(CWD, &place, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .map_err(at("open_tree"))
}
