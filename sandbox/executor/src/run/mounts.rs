//! The mounts of a plan, attached below the container's root in their order.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, fstat, fstatfs, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::devices::MountId;
use super::error::{At, Quoted, Stage, StageError};
use super::filesystem::{self, Refused};
use super::prepared::Prepared;
use super::report::Reporter;
use super::{Fds, cgroupfs, device_node, devices, pod_root};
use crate::in_root::{self, Kind};
use crate::plan::{Mount, MountKind, Plan};
use crate::sys::{self, MountAttr};

/// f_type of procfs.
const PROC_MAGIC: u64 = 0x9fa0;
const RDONLY: u64 = MountAttrFlags::MOUNT_ATTR_RDONLY.bits() as u64;

/// The state while a container's mounts are made.
pub(crate) struct Mounter<'a> {
    pub plan: &'a Plan,
    pub fds: Fds<'a>,
    /// Where a builder has attached sources of binds, devices and /dev.
    pub prepared: Option<&'a Prepared>,
    pub root: BorrowedFd<'a>,
    /// A /proc for each such mount of the plan, in their order.
    pub procs: VecDeque<OwnedFd>,
    /// Whether the kernel offers /proc/kcore.
    pub kcore: bool,
    pub reporter: &'a Reporter,
    /// The mounts that are this container's alone: its root, and each new tmpfs.
    pub own: Vec<MountId>,
    /// Made writable so that things can be made in them, to be closed at the end.
    pub seal: Vec<OwnedFd>,
}

impl<'a> Mounter<'a> {
    /// Attaches all mounts, then makes those read-only that had to wait for their content.
    pub(crate) fn attach_all(&mut self) -> Result<(), StageError> {
        for (position, mount) in self.plan.mounts.iter().enumerate() {
            match &mount.kind {
                MountKind::Cgroup1 { hierarchies, unified } => {
                    self.cgroup1(mount, hierarchies, *unified)?;
                }
                _ => {
                    let source = self.source(position, mount)?;
                    self.attach(&source, mount)?;
                }
            }
        }
        devices::make_elsewhere(self.root, self.plan, &self.own, self.prepared, self.reporter)?;
        for mount in self.seal.drain(..) {
            filesystem::set_read_only(mount.as_fd(), false).at(Stage::Mount, "make a tmpfs read-only")?;
        }
        Ok(())
    }

    /// The detached mount that `mount` asks for.
    fn source(&mut self, position: usize, mount: &Mount) -> Result<Source<'a>, StageError> {
        let new = |name: &CStr, options: &[&CStr]| {
            filesystem::new(name, options, mount.attributes).map_err(|refused| refused_at(mount, &refused))
        };
        Ok(Source::Own(match &mount.kind {
            MountKind::Bind { source, .. } => match self.prepared {
                Some(prepared) => prepared.mount(position).at(Stage::Mount, Quoted(&mount.target))?,
                None => return self.fds.get(*source).map(Source::Given),
            },
            MountKind::Proc => {
                let proc = self.procs.pop_front().ok_or(Errno::NOENT);
                proc.at(Stage::Mount, Quoted(&mount.target))?
            }
            MountKind::Sysfs => self.sysfs(mount)?,
            MountKind::Tmpfs { options } => self.tmpfs(position, mount, options)?,
            MountKind::Devpts { gid } => {
                let gid = CString::new(format!("gid={gid}")).unwrap_or_default();
                new(c"devpts", &[c"ptmxmode=0666", c"mode=0620", &gid])?
            }
            MountKind::Mqueue => new(c"mqueue", &[])?,
            MountKind::Cgroup2 | MountKind::Cgroup1 { .. } => new(c"cgroup2", &[])?,
            MountKind::PodShm => {
                let shm = pod_root::shm().at(Stage::Mount, Quoted(&mount.target))?;
                if mount.attributes & RDONLY != 0 {
                    filesystem::set_read_only(shm.as_fd(), false).at(Stage::Mount, Quoted(&mount.target))?;
                }
                shm
            }
        }))
    }

    /// Mounting a new sysfs needs rights over the network namespace; without them /sys is an empty folder.
    fn sysfs(&self, mount: &Mount) -> Result<OwnedFd, StageError> {
        let refused = match filesystem::new(c"sysfs", &[], mount.attributes) {
            Ok(sysfs) => return Ok(sysfs),
            Err(refused) => refused,
        };
        if refused.errno != Errno::PERM {
            return Err(refused_at(mount, &refused));
        }
        if self.prepared.is_some() {
            // The pod has the host's network, and so its /sys.
            return self.hosts_sysfs(mount).at(Stage::Mount, Quoted(&mount.target));
        }
        let why = format!("{}: sysfs is not permitted here, it is empty", Quoted(&mount.target));
        self.reporter.note(Stage::Mount, why);
        filesystem::new(c"tmpfs", &[c"mode=0755", c"size=4k"], mount.attributes)
            .map_err(|refused| refused_at(mount, &refused))
    }

    fn hosts_sysfs(&self, mount: &Mount) -> Result<OwnedFd, Errno> {
        let sysfs = pod_root::sysfs()?;
        let set = mount.attributes | RDONLY;
        sys::mount_setattr(sysfs.as_fd(), true, &MountAttr { set, ..MountAttr::default() })?;
        Ok(sysfs)
    }

    fn tmpfs(&mut self, position: usize, mount: &Mount, options: &[CString]) -> Result<OwnedFd, StageError> {
        let is_dev = device_node::is_own_dev(mount);
        let tmpfs = match self.prepared {
            Some(prepared) if is_dev => prepared.mount(position).at(Stage::Mount, Quoted(&mount.target))?,
            _ => {
                let options: Vec<&CStr> = options.iter().map(CString::as_c_str).collect();
                filesystem::new(c"tmpfs", &options, mount.attributes & !RDONLY)
                    .map_err(|refused| refused_at(mount, &refused))?
            }
        };
        self.make_targets_in(&tmpfs, position, mount)?;
        if is_dev {
            if self.prepared.is_none() {
                device_node::populate(tmpfs.as_fd(), self.plan, &self.plan.devices)?;
            }
            devices::make_links(tmpfs.as_fd(), self.kcore)?;
        }
        self.seal_later(&tmpfs, mount)?;
        self.own.push(devices::mount_of(tmpfs.as_fd()).at(Stage::Mount, Quoted(&mount.target))?);
        Ok(tmpfs)
    }

    /// Later mounts right below a new tmpfs: their targets can't exist, so they are made without a look.
    fn make_targets_in(&self, tmpfs: &OwnedFd, position: usize, mount: &Mount) -> Result<(), StageError> {
        for later in &self.plan.mounts[position + 1..] {
            let Some(name) = device_node::child_of(&mount.target, &later.target) else { continue };
            let made = match kind_of(later) {
                Kind::Folder => mkdirat(tmpfs, name, Mode::from_raw_mode(0o755)),
                Kind::File => make_file(tmpfs, name),
            };
            match made {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(StageError::new(Stage::Mount, errno, Quoted(&later.target))),
            }
        }
        Ok(())
    }

    fn seal_later(&mut self, tmpfs: &OwnedFd, mount: &Mount) -> Result<(), StageError> {
        if mount.attributes & RDONLY != 0 {
            self.seal.push(tmpfs.try_clone().map_err(|_| {
                StageError::explained(Stage::Mount, Errno::MFILE, format!("{}", Quoted(&mount.target)))
            })?);
        }
        Ok(())
    }

    fn cgroup1(&mut self, mount: &Mount, hierarchies: &[CString], unified: bool) -> Result<(), StageError> {
        let tmpfs = filesystem::new(c"tmpfs", &[c"mode=0755", c"size=64k"], mount.attributes & !RDONLY)
            .map_err(|refused| refused_at(mount, &refused))?;
        self.attach(&Source::Given(tmpfs.as_fd()), mount)?;
        cgroupfs::fill(tmpfs.as_fd(), hierarchies, unified, mount.attributes)?;
        self.seal_later(&tmpfs, mount)
    }

    fn attach(&self, source: &Source<'_>, mount: &Mount) -> Result<(), StageError> {
        if self.would_be_made_in_the_hosts_dev(mount) {
            let why = format!("{}: the /dev that is mounted here does not have it", Quoted(&mount.target));
            if matches!(mount.kind, MountKind::Bind { .. }) {
                return Err(StageError::explained(Stage::Mount, Errno::NOENT, why));
            }
            // One of the usual mounts, such as /dev/mqueue: not asked for by name.
            self.reporter.note(Stage::Mount, why);
            return Ok(());
        }
        attach_at(self.root, source.as_fd(), mount)
    }

    /// Where /dev is a volume, which is the host's /dev as a rule, no target is made in it.
    fn would_be_made_in_the_hosts_dev(&self, mount: &Mount) -> bool {
        devices::dev_is_a_volume(self.plan)
            && mount.target.to_bytes().starts_with(b"/dev/")
            && matches!(in_root::find(self.root, &*mount.target), Err(Errno::NOENT))
    }
}

fn attach_at(root: BorrowedFd<'_>, source: BorrowedFd<'_>, mount: &Mount) -> Result<(), StageError> {
    let kind = kind_of(mount);
    let target = find_target(root, mount, kind)?;
    guard_proc(source, &target, mount)?;
    filesystem::attach(source, target.as_fd()).map_err(|errno| not_attached(errno, &target, mount, kind))
}

/// A folder over a file and the reverse have more than one error number.
fn not_attached(errno: Errno, target: &OwnedFd, mount: &Mount, kind: Kind) -> StageError {
    let path = Quoted(&mount.target);
    let folder = fstat(target).map(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory);
    let why = match (folder, kind) {
        (Ok(true), Kind::File) => "is a folder in the image, but a file is mounted there",
        (Ok(false), Kind::Folder) => "is a file in the image, but a folder is mounted there",
        _ => return StageError::new(Stage::Mount, errno, path),
    };
    StageError::explained(Stage::Mount, errno, format!("{path}: {why}"))
}

fn find_target(root: BorrowedFd<'_>, mount: &Mount, kind: Kind) -> Result<OwnedFd, StageError> {
    let path = &mount.target;
    if !matches!(mount.kind, MountKind::Proc | MountKind::Sysfs) {
        let subject = format_args!("{}: find or make the place for it", Quoted(path));
        return in_root::find_or_make(root, path, kind).at(Stage::Mount, subject);
    }
    // Masks are looked up below these.
    in_root::find_or_make_without_links(root, path, Kind::Folder).map_err(|errno| match errno {
        Errno::LOOP => {
            let why = format!("{}: is a link in the image, it must be a folder", Quoted(path));
            StageError::explained(Stage::Mount, errno, why)
        }
        errno => StageError::new(Stage::Mount, errno, Quoted(path)),
    })
}

/// Only another procfs may cover /proc, and over something in it goes only what says so by name: a
/// volume with a link to /proc in its path must not end up there.
fn guard_proc(source: BorrowedFd<'_>, target: &OwnedFd, mount: &Mount) -> Result<(), StageError> {
    let path = &mount.target;
    let is_proc = |fd: BorrowedFd<'_>| fstatfs(fd).map(|s| s.f_type as u64 == PROC_MAGIC);
    if matches!(mount.kind, MountKind::Proc) || !is_proc(target.as_fd()).at(Stage::Mount, Quoted(path))? {
        return Ok(());
    }
    let why = match path.to_bytes() {
        b"/proc" if is_proc(source).at(Stage::Mount, Quoted(path))? => return Ok(()),
        b"/proc" => "only a proc file system may be mounted over it",
        named if named.starts_with(b"/proc/") => return Ok(()),
        _ => "leads into /proc, where no volume may be mounted",
    };
    Err(StageError::explained(Stage::Mount, Errno::PERM, format!("{}: {why}", Quoted(path))))
}

enum Source<'a> {
    Own(OwnedFd),
    Given(BorrowedFd<'a>),
}

impl AsFd for Source<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(fd) => fd.as_fd(),
            Self::Given(fd) => *fd,
        }
    }
}

fn refused_at(mount: &Mount, refused: &Refused) -> StageError {
    StageError::explained(Stage::Mount, refused.errno, format!("{}: {refused}", Quoted(&mount.target)))
}

fn kind_of(mount: &Mount) -> Kind {
    if matches!(mount.kind, MountKind::Bind { file: true, .. }) { Kind::File } else { Kind::Folder }
}

fn make_file(folder: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    openat(folder, name, flags, Mode::from_raw_mode(0o644)).map(drop)
}
