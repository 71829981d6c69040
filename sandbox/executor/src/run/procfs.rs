//! Sets attributes of a process that can only be set by writing into /proc; no image or volume can replace
//! that /proc with another file system.
//!
//! A container's first process has a new /proc of its own PID namespace, which is attached nowhere while
//! it is written through and then becomes the container's. One that joins a container opens its files in
//! the host's /proc before it joins: closing a /proc that was never attached takes an RCU grace period.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::error::{At, Quoted, Stage, StageError};
use super::filesystem;
use super::report::Reporter;
use crate::plan::Process;

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
