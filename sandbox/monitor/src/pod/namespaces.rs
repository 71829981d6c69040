//! The namespaces that containers inherit, and the descriptors for them.

use crisp_executor::run::inside::Inside;
use crisp_executor::run::pod_root;
use crisp_executor::user_namespace::{IdMappings, UserNamespace};
use crisp_monitor::wire::Failure;
use crisp_monitor::wire::request::OpenPod;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, PROC_SUPER_MAGIC, fstatfs, open, openat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces};

use super::failed;
use crate::sys;

const MAKE: &str = "make the pod's namespaces";

/// `network` is a prepared one. Another pod's is joined first: the other new namespaces are then made in it.
pub(super) fn unshare(request: &OpenPod, network: Option<&OwnedFd>) -> Result<(), Failure> {
    if let Some(network) = &request.joined_network {
        move_into_thread_name_spaces(network.as_fd(), ThreadNameSpaceType::NETWORK)
            .map_err(failed("join the network of another pod"))?;
    }
    let mut flags = UnshareFlags::NEWNS | of_pod(request);
    if let Some(network) = network.filter(|_| request.network) {
        flags.remove(UnshareFlags::NEWNET);
        move_into_thread_name_spaces(network.as_fd(), ThreadNameSpaceType::NETWORK).map_err(failed(MAKE))?;
    }
    sys::unshare(flags).map_err(failed(MAKE))
}

fn of_pod(request: &OpenPod) -> UnshareFlags {
    let mut flags = UnshareFlags::empty();
    flags.set(UnshareFlags::NEWUTS, request.hostname.is_some());
    flags.set(UnshareFlags::NEWIPC, request.ipc);
    flags.set(UnshareFlags::NEWNET, request.network);
    flags
}

/// Makes a user namespace, and inside it the namespaces that it owns; this process joins those, but stays in
/// the host's user namespace. Then `settings` are made inside too, where the kernel accepts them.
pub(super) fn unshare_inside(
    mappings: &IdMappings,
    request: &OpenPod,
    settings: impl FnOnce() -> Result<(), Failure>,
) -> Result<UserNamespace, Failure> {
    let user = UserNamespace::new(mappings.clone())
        .map_err(|error| Failure::UserNamespace { reason: error.to_string() })?;
    let namespaces = of_pod(request);
    let make = || {
        sys::unshare(namespaces).map_err(failed(MAKE))?;
        settings()
    };
    let inside = Inside::run(&user, make).map_err(Failure::Stage)??;
    sys::unshare(UnshareFlags::NEWNS).map_err(failed(MAKE))?;
    let joined = ThreadNameSpaceType::from_bits_retain(namespaces.bits());
    move_into_thread_name_spaces(inside.as_fd(), joined).map_err(failed("join the pod's namespaces"))?;
    Ok(user)
}

/// The network namespace of this process.
pub(super) fn own_network(proc: Option<&OwnedFd>) -> Result<OwnedFd, Failure> {
    let action = "open thread-self/ns/net of /proc";
    let proc = proc.ok_or(Errno::NOENT).map_err(failed(action))?;
    openat(proc, c"thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed(action))
}

/// A socket stays in the namespace in which it was made, even if another process uses it.
pub(super) fn netlink() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // Protocol 0 of this family is NETLINK_ROUTE.
    socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)
}

/// The host's /proc. None if another file system is mounted there.
pub(super) fn host_proc() -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = open(c"/proc", flags, Mode::empty()).ok()?;
    fstatfs(&proc).is_ok_and(|stat| stat.f_type == PROC_SUPER_MAGIC).then_some(proc)
}

/// A detached copy of the host's shared memory. If the host has none, the pod has its own.
pub(super) fn host_shm() -> Option<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, c"/dev/shm", flags).ok()
}

/// Mounts it at the path of the pod's own.
pub(super) fn attach_shm(shm: &OwnedFd) -> Result<(), Failure> {
    move_mount(shm, c"", CWD, pod_root::SHM, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(failed("attach the host's shared memory"))
}
