//! The new API for mounting an overlay.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use super::{Failure, OPTIONS, Opened, OverlayApi, VOLATILE};

/// Makes a detached mount of the parts.
pub(super) fn configure(parts: &Opened, api: OverlayApi) -> Result<OwnedFd, Failure> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(Failure::at("fsopen"))?;
    let set = |key: &'static str, fd: &OwnedFd| {
        let result = match api {
            OverlayApi::Descriptors => fsconfig_set_fd(&context, key, fd),
            OverlayApi::Names | OverlayApi::Classic => fsconfig_set_string(&context, key, name(fd)),
        };
        result.map_err(|errno| Failure { step: key, errno, detail: kernel_log(&context) })
    };
    let set_text = |key: &'static str, value: &str| {
        fsconfig_set_string(&context, key, value).map_err(|errno| Failure {
            step: key,
            errno,
            detail: kernel_log(&context),
        })
    };
    set_text("source", "crisp")?;
    for layer in &parts.layers {
        set("lowerdir+", layer)?;
    }
    if let Some((upper, work)) = &parts.writable {
        set("upperdir", upper)?;
        set("workdir", work)?;
        for (key, value) in OPTIONS {
            set_text(key, value)?;
        }
        fsconfig_set_flag(&context, VOLATILE).map_err(Failure::at(VOLATILE))?;
    }
    fsconfig_create(&context).map_err(|errno| Failure {
        step: "create",
        errno,
        detail: create_detail(&context, errno),
    })?;
    // A read-only mount needs no devices of an image.
    let attributes = match parts.writable {
        Some(_) => MountAttrFlags::empty(),
        None => MountAttrFlags::MOUNT_ATTR_NODEV,
    };
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(Failure::at("fsmount"))
}

fn name(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// The kernel's messages about a failed configuration: one message per read.
fn kernel_log(context: &OwnedFd) -> String {
    let mut log = String::new();
    let mut buffer = [0u8; 512];
    while let Ok(n @ 1..) = rustix::io::read(context, &mut buffer) {
        log.push_str(if log.is_empty() { " (" } else { "; " });
        log.push_str(String::from_utf8_lossy(&buffer[..n]).trim_start_matches("e ").trim_end());
    }
    if !log.is_empty() {
        log.push(')');
    }
    log
}

/// The reason of a failed creation. For refusals at creation the kernel often only writes to its own log.
fn create_detail(context: &OwnedFd, errno: Errno) -> String {
    let log = kernel_log(context);
    if log.is_empty() && errno == Errno::INVAL {
        return " (dmesg says why; upper and work must be apart, on one file system that is no overlay itself)".to_owned();
    }
    log
}
