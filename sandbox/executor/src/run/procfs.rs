//! Sets attributes of a process that can only be set by writing into /proc; no image or volume can replace
//! that /proc with another file system.
//!
//! A container's first process has a new /proc of its own PID namespace, which is attached nowhere while
//! it is written through and then becomes the container's. One that joins a container opens its files in
//! the host's /proc before it joins: closing a /proc that was never attached takes an RCU grace period.
//!
//! A /proc shows the PID namespace of the process that makes it. A helper in another one ([`unseen`](super::unseen))
//! names the namespace to the kernel since Linux 6.17, see [`makes_those_of_others`]. Before, it copies the mount that
//! the namespace's processes have: the target of a container has its own, and of the pod's shared namespace
//! [`pod_init`](super::pod_init) attaches one in the pod's root. A start is refused where there is none to copy, as a
//! process that could make it would be seen with the right to do all. `crisp oci`, to which a namespace is given by a
//! path, looks for a process of it.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, PROC_SUPER_MAGIC, fstat, fstatfs, openat, statat};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::error::{At, Quoted, Stage, StageError};
use super::report::Reporter;
use super::{PodContext, filesystem};
use crate::plan::{MountKind, Plan, Process};
use crate::sys::{self, MountAttr};

/// The flags that every runtime gives /proc.
const USUAL: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// A new, unattached /proc; `attributes` None: the usual ones.
pub(crate) fn open(attributes: Option<u64>) -> Result<OwnedFd, StageError> {
    let attributes = attributes.unwrap_or(USUAL.bits().into());
    filesystem::new(c"proc", &[], attributes)
        .map_err(|refused| StageError::explained(Stage::Proc, refused.errno, refused.to_string()))
}

/// The attributes of the /proc mounts of `plan`, in their order.
pub(crate) fn attributes_of(plan: &Plan) -> impl Iterator<Item = u64> {
    plan.mounts.iter().filter(|mount| matches!(mount.kind, MountKind::Proc)).map(|mount| mount.attributes)
}

/// Whether the kernel makes a /proc of another PID namespace than the caller's: Linux 6.17. Asked once, also for
/// copies of this process.
#[must_use]
pub fn makes_those_of_others() -> bool {
    static MAKES: OnceLock<bool> = OnceLock::new();
    *MAKES.get_or_init(|| filesystem::has_option(c"proc", c"pidns"))
}

/// A /proc for each such mount of `plan`, of the PID namespace to which the caller has moved its children. `other`
/// names a process in that, or the namespace.
pub(crate) fn of_others(
    plan: &Plan,
    other: BorrowedFd<'_>,
    pod: &PodContext<'_>,
) -> Result<Vec<OwnedFd>, StageError> {
    let wanted: Vec<u64> = attributes_of(plan).collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let own = Own::open(pod.proc)?;
    if !pod.copies_proc {
        let new =
            |attributes| filesystem::new_by_descriptor(c"proc", (c"pidns", own.children.as_fd()), attributes);
        let procs: Result<_, _> = wanted.into_iter().map(new).collect();
        return procs
            .map_err(|refused| StageError::explained(Stage::Proc, refused.errno, refused.to_string()));
    }
    let copies = own.copies(wanted.len(), other)?;
    for (copy, attributes) in copies.iter().zip(wanted) {
        own.check(copy)?;
        set_attributes(copy, attributes).at(Stage::Proc, OF_OTHERS)?;
    }
    Ok(copies)
}

const OF_OTHERS: &str = "of another PID namespace";
/// The number of the root of every procfs.
const ROOT: u64 = 1;

/// Namespaces of this process.
struct Own {
    /// The PID namespace of its children.
    children: OwnedFd,
    mounts: OwnedFd,
}

impl Own {
    fn open(proc: Option<BorrowedFd<'_>>) -> Result<Self, StageError> {
        let open = |proc: BorrowedFd<'_>| {
            let of_thread = |path| open_file(proc, path, OFlags::RDONLY);
            let children = of_thread(c"thread-self/ns/pid_for_children")?;
            Ok(Self { children, mounts: of_thread(c"thread-self/ns/mnt")? })
        };
        match proc.map(open) {
            Some(Ok(own)) => Ok(own),
            Some(Err(_)) | None => open(self::open(None)?.as_fd()).at(Stage::Proc, OF_OTHERS),
        }
    }

    /// Detached copies of what the process `other` has at /proc, without what is mounted below.
    fn copies(&self, count: usize, other: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, StageError> {
        let mounts = |of| move_into_thread_name_spaces(of, ThreadNameSpaceType::MOUNT);
        mounts(other).map_err(|errno| none(errno, "the namespace is given without a process of it"))?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let copies: Result<_, _> = (0..count).map(|_| open_tree(CWD, c"/proc", flags)).collect();
        mounts(self.mounts.as_fd()).at(Stage::Proc, "return to our own mounts")?;
        copies.map_err(|errno| none(errno, "its processes have none at /proc"))
    }

    /// Whether `mount` is the /proc of the children's PID namespace, which the container that it is from may have
    /// replaced.
    fn check(&self, mount: &OwnedFd) -> Result<(), StageError> {
        let is_it = || {
            let (root, first) = (fstat(mount)?, statat(mount, c"1/ns/pid", AtFlags::empty())?);
            let wanted = fstat(&self.children)?;
            let of_proc = fstatfs(mount)?.f_type == PROC_SUPER_MAGIC && root.st_ino == ROOT;
            Ok(of_proc && (first.st_dev, first.st_ino) == (wanted.st_dev, wanted.st_ino))
        };
        match is_it() {
            Ok(true) => Ok(()),
            Ok(false) => Err(none(Errno::XDEV, "what its processes have at /proc is something else")),
            Err(errno) => Err(none(errno, "its processes have none at /proc")),
        }
    }
}

fn none(errno: Errno, why: &str) -> StageError {
    let help = "a kernel before 6.17 cannot make one while containers may have CAP_SYS_PTRACE";
    StageError::explained(Stage::Proc, errno, format!("{OF_OTHERS}: {why}, and {help}"))
}

fn set_attributes(mount: &OwnedFd, attributes: u64) -> Result<(), Errno> {
    let all = USUAL | MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR__ATIME;
    let attr = MountAttr { set: attributes, clear: all.bits().into(), ..MountAttr::default() };
    sys::mount_setattr(mount.as_fd(), false, &attr)
}

/// Whether [`apply`] would write anything.
pub(crate) fn needed(process: &Process) -> bool {
    process.oom_score_adj.is_some() || process.apparmor_profile.is_some()
}

/// The files that [`Files::apply`] writes, open: those of the process that opened them.
#[derive(Default)]
pub(crate) struct Files {
    oom_score: Option<OwnedFd>,
    apparmor: Option<OwnedFd>,
}

impl Files {
    /// Opens what [`Files::apply`] needs for `process`, which is the caller.
    pub(crate) fn open(proc: BorrowedFd<'_>, process: &Process) -> Result<Self, StageError> {
        let mut files = Self::default();
        if let Some(wanted) = process.oom_score_adj {
            let file = open_file(proc, c"self/oom_score_adj", OFlags::RDWR).at(Stage::OomScore, wanted)?;
            files.oom_score = Some(file);
        }
        if let Some(profile) = &process.apparmor_profile {
            let file = open_file(proc, c"self/attr/apparmor/exec", OFlags::WRONLY)
                .or_else(|_| open_file(proc, c"self/attr/exec", OFlags::WRONLY))
                .at(Stage::AppArmor, format_args!("{}: is AppArmor enabled on this host", Quoted(profile)))?;
            files.apparmor = Some(file);
        }
        Ok(files)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.oom_score.iter().chain(&self.apparmor).map(AsFd::as_fd)
    }

    /// Sets what a process can only be given through /proc.
    pub(crate) fn apply(&self, process: &Process, reporter: &Reporter) -> Result<(), StageError> {
        if let (Some(wanted), Some(file)) = (process.oom_score_adj, &self.oom_score) {
            oom_score(file, wanted, reporter).at(Stage::OomScore, wanted)?;
        }
        match (&process.apparmor_profile, &self.apparmor) {
            (Some(profile), Some(file)) => apparmor(file, profile),
            _ => Ok(()),
        }
    }
}

/// Sets the OOM score of the caller, which is to become `process` or its parent.
pub(crate) fn set_oom_score(
    proc: BorrowedFd<'_>,
    process: &Process,
    reporter: &Reporter,
) -> Result<(), StageError> {
    let Some(wanted) = process.oom_score_adj else { return Ok(()) };
    let file = open_file(proc, c"self/oom_score_adj", OFlags::RDWR).at(Stage::OomScore, wanted)?;
    oom_score(&file, wanted, reporter).at(Stage::OomScore, wanted)
}

/// Lowering it below the lowest that was ever set for us takes CAP_SYS_RESOURCE, which some hosts
/// do not give: then as low as goes.
fn oom_score(file: &OwnedFd, wanted: i32, reporter: &Reporter) -> Result<(), Errno> {
    match write_all(file, wanted.to_string().as_bytes()) {
        Err(Errno::ACCESS) => {}
        done => return done,
    }
    let mut text = [0u8; 16];
    let length = rustix::io::pread(file, &mut text, 0)?;
    let own = std::str::from_utf8(&text[..length]).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0);
    let lowest = if own > 0 && write_all(file, b"0").is_ok() { 0 } else { own };
    reporter.note(Stage::OomScore, format!("{wanted}: not permitted without CAP_SYS_RESOURCE, is {lowest}"));
    Ok(())
}

fn apparmor(file: &OwnedFd, profile: &CStr) -> Result<(), StageError> {
    let stage = Stage::AppArmor;
    let text = [b"exec ", profile.to_bytes()].concat();
    write_all(file, &text).map_err(|errno| match errno {
        Errno::NOENT => {
            StageError::explained(stage, errno, format!("{}: the profile is not loaded", Quoted(profile)))
        }
        Errno::INVAL => {
            let why = format!("{}: AppArmor is not enabled on this host", Quoted(profile));
            StageError::explained(stage, errno, why)
        }
        errno => StageError::new(stage, errno, Quoted(profile)),
    })
}

fn open_file(proc: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat(proc, path, flags | OFlags::CLOEXEC, Mode::empty())
}

/// Files of /proc take a value in one write or not at all.
fn write_all(file: &OwnedFd, text: &[u8]) -> Result<(), Errno> {
    match rustix::io::pwrite(file, text, 0) {
        Ok(written) if written == text.len() => Ok(()),
        Ok(_) => Err(Errno::IO),
        Err(errno) => Err(errno),
    }
}
