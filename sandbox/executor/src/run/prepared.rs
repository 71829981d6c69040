//! The files that a builder attaches for a container in a user namespace, because the container could not, or
//! not as safely, open them itself.
//!
//! ```text
//!  /root         a passing tmpfs over the place where the container's root goes
//!  /root/N       the source of mount N of the plan, or its new /dev with the nodes in it
//!  /root/devN    device N of the plan, where it is not right in /dev
//! ```
//!
//! Nodes are made by the host's root on a tmpfs of the host's, as the kernel opens no device on a file
//! system that was mounted in a user namespace.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

use super::error::{At, Quoted, Stage, StageError};
use super::{Fds, device_node, filesystem, pod_root};
use crate::in_root::Kind;
use crate::plan::{Device, Mount, MountKind, Plan};
use crate::user_namespace::UserNamespace;

const FLAGS: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
const RDONLY: u64 = MountAttrFlags::MOUNT_ATTR_RDONLY.bits() as u64;

/// In the builder, while the pod's root is the root.
pub(crate) fn attach_all(plan: &Plan, fds: Fds<'_>, user: &UserNamespace) -> Result<(), StageError> {
    let folder = tmpfs(&[c"mode=0755".to_owned()], FLAGS.bits().into(), c"/root")?;
    let place = openat(CWD, pod_root::ROOT_TARGET, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let place = place.at(Stage::Mount, "/root of the pod")?;
    filesystem::attach(folder.as_fd(), place.as_fd()).at(Stage::Mount, "/root of the pod")?;
    for (position, mount) in plan.mounts.iter().enumerate() {
        let target = Quoted(&mount.target);
        match &mount.kind {
            MountKind::Bind { source, file } => {
                let kind = if *file { Kind::File } else { Kind::Folder };
                let place = make(&folder, &position.to_string(), kind).at(Stage::Mount, &target)?;
                filesystem::attach(fds.get(*source)?, place.as_fd()).at(Stage::Mount, &target)?;
            }
            MountKind::Tmpfs { options } if device_node::is_own_dev(mount) => {
                let dev = dev(plan, mount, options, user)?;
                let place = make(&folder, &position.to_string(), Kind::Folder).at(Stage::Mount, &target)?;
                filesystem::attach(dev.as_fd(), place.as_fd()).at(Stage::Mount, &target)?;
            }
            _ => {}
        }
    }
    for (index, device) in device_node::elsewhere(plan) {
        device_node::make(folder.as_fd(), device_name(index).as_bytes(), &owned(device, user)?)?;
    }
    Ok(())
}

/// The files that a builder has attached, from its child's view.
#[derive(Debug)]
pub(crate) struct Prepared(OwnedFd);

impl Prepared {
    /// To be called before a container's root covers it.
    pub(crate) fn find() -> Result<Self, StageError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(CWD, pod_root::ROOT_TARGET, flags, Mode::empty());
        Ok(Self(folder.at(Stage::Mount, "/root of the pod")?))
    }

    /// A detached copy of what was attached for the mount at `position` of the plan. Its flags are locked.
    pub(crate) fn mount(&self, position: usize) -> Result<OwnedFd, Errno> {
        self.take(&position.to_string())
    }

    /// A detached mount of the node of the device at `index` of the plan.
    pub(crate) fn device(&self, index: usize) -> Result<OwnedFd, Errno> {
        self.take(&device_name(index))
    }

    fn take(&self, name: &str) -> Result<OwnedFd, Errno> {
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        open_tree(&self.0, name, flags)
    }
}

fn device_name(index: usize) -> String {
    format!("dev{index}")
}

fn dev(plan: &Plan, mount: &Mount, options: &[CString], user: &UserNamespace) -> Result<OwnedFd, StageError> {
    let mut options = options.to_vec();
    for (name, id) in [("uid", user.mappings.host_uid(0)), ("gid", user.mappings.host_gid(0))] {
        let id = id.ok_or(Errno::OVERFLOW).at(Stage::Mount, Quoted(&mount.target))?;
        options.push(CString::new(format!("{name}={id}")).unwrap_or_default());
    }
    let dev = tmpfs(&options, mount.attributes & !RDONLY, &mount.target)?;
    let nodes = plan.devices.iter().map(|device| owned(device, user)).collect::<Result<Vec<_>, _>>()?;
    device_node::populate(dev.as_fd(), plan, &nodes)?;
    Ok(dev)
}

/// The device with the ids that its owners have on the host.
fn owned(device: &Device, user: &UserNamespace) -> Result<Device, StageError> {
    let (uid, gid) = (user.mappings.host_uid(device.uid), user.mappings.host_gid(device.gid));
    let unmapped = || {
        let why =
            format!("{}: its owner is not mapped in the user namespace of the pod", Quoted(&device.path));
        StageError::explained(Stage::Device, Errno::OVERFLOW, why)
    };
    Ok(Device { uid: uid.ok_or_else(unmapped)?, gid: gid.ok_or_else(unmapped)?, ..device.clone() })
}

fn tmpfs(options: &[CString], attributes: u64, target: &CStr) -> Result<OwnedFd, StageError> {
    let options: Vec<&CStr> = options.iter().map(CString::as_c_str).collect();
    filesystem::new(c"tmpfs", &options, attributes).map_err(|refused| {
        StageError::explained(Stage::Mount, refused.errno, format!("{}: {refused}", Quoted(target)))
    })
}

fn make(folder: &OwnedFd, name: &str, kind: Kind) -> Result<OwnedFd, Errno> {
    match kind {
        Kind::Folder => mkdirat(folder, name, Mode::from_raw_mode(0o755))?,
        Kind::File => drop(openat(
            folder,
            name,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o644),
        )?),
    }
    openat(folder, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}
