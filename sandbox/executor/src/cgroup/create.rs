//! Makes a cgroup in every hierarchy.

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

use super::cpuset;
use super::dir::{BUFFER, Dir};
use super::error::CgroupError;
use super::hierarchy::{Extent, FOLDER_MODE, Hierarchy, Host, V2_WANTED};
use super::path::CgroupPath;
use super::remove;

/// How the v2 controllers of a new cgroup are handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controllers {
    Enabled,
    Left,
}

/// A cgroup to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub path: &'a CgroupPath,
    /// A parent that belongs to another program: neither it nor its parents are made.
    pub below: Option<&'a CgroupPath>,
    pub extent: Extent,
    pub controllers: Controllers,
}

impl Wanted<'_> {
    /// Its parents that may be made, from the lowest to the highest.
    fn parents(&self) -> impl Iterator<Item = CgroupPath> {
        let parents = std::iter::successors(self.path.parent(), CgroupPath::parent);
        parents.take_while(|parent| Some(parent) != self.below)
    }
}

/// Makes missing folders of a cgroup. Returns true when the last folder is new in at least one hierarchy.
pub(super) fn create(host: &Host, wanted: &Wanted<'_>) -> Result<bool, CgroupError> {
    let path = wanted.path;
    let mut made: Vec<&Hierarchy> = Vec::new();
    // One hierarchy is like the others.
    let mut parent_is_there = true;
    for hierarchy in host.within(wanted.extent).chain(&host.v2) {
        match create_in(host, hierarchy, wanted, &mut parent_is_there) {
            Ok(true) => made.push(hierarchy),
            Ok(false) => {}
            Err(error) => {
                // Best effort: the error that counts is the first one.
                for hierarchy in made {
                    let _ = remove::rmdir(hierarchy, path);
                }
                return Err(error);
            }
        }
    }
    Ok(!made.is_empty())
}

fn create_in(
    host: &Host,
    hierarchy: &Hierarchy,
    wanted: &Wanted<'_>,
    parent_is_there: &mut bool,
) -> Result<bool, CgroupError> {
    if !*parent_is_there && let Some(parent) = wanted.parents().next() {
        // An error here also occurs for the cgroup below it.
        let _ = mkdir(hierarchy, &parent);
    }
    let made = make_folders(hierarchy, wanted, parent_is_there)?;
    if host.v1.is_empty() {
        if wanted.controllers == Controllers::Enabled {
            enable_controllers(hierarchy, wanted.path)?;
        }
    } else if made && hierarchy.has("cpuset") {
        cpuset::inherit(hierarchy, wanted.path)?;
    }
    Ok(made)
}

/// One mkdir where the parent is there.
fn make_folders(
    hierarchy: &Hierarchy,
    wanted: &Wanted<'_>,
    parent_is_there: &mut bool,
) -> Result<bool, CgroupError> {
    let path = wanted.path;
    // Another process may remove an empty parent between the two calls: start again then.
    for _ in 0..8 {
        match mkdir(hierarchy, path) {
            Err(Errno::NOENT) => *parent_is_there = false,
            other => return other.map_err(|errno| create_error(hierarchy, path, errno)),
        }
        let mut missing: Vec<CgroupPath> = wanted.parents().collect();
        while let Some(above) = missing.pop() {
            match mkdir(hierarchy, &above) {
                Ok(_) => {}
                Err(Errno::NOENT) => break,
                Err(errno) => return Err(create_error(hierarchy, &above, errno)),
            }
        }
    }
    match wanted.below {
        Some(above) if !hierarchy.dir(above).is_ok_and(|dir| dir.is_some()) => {
            Err(CgroupError::Gone { path: above.clone() })
        }
        _ => Err(create_error(hierarchy, path, Errno::NOENT)),
    }
}

/// Returns false when it exists already.
pub(super) fn mkdir(hierarchy: &Hierarchy, path: &CgroupPath) -> Result<bool, Errno> {
    let mode = Mode::from_raw_mode(FOLDER_MODE);
    match rustix::fs::mkdirat(hierarchy.root(), path.relative(), mode) {
        Ok(()) => {
            // Costs a third of what making the folder does.
            if hierarchy.umask_hides {
                rustix::fs::chmodat(hierarchy.root(), path.relative(), mode, AtFlags::empty())?;
            }
            Ok(true)
        }
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn create_error(hierarchy: &Hierarchy, path: &CgroupPath, errno: Errno) -> CgroupError {
    let hint = match errno {
        Errno::AGAIN => " (a limit on the number of cgroups above it is reached: cgroup.max.descendants)",
        Errno::NOSPC => " (the kernel has no cgroup ids left, or dead cgroups pile up)",
        Errno::ROFS => " (the hierarchy is mounted read-only)",
        Errno::ACCESS | Errno::PERM => " (not permitted; is the cgroup delegated to this user?)",
        _ => "",
    };
    CgroupError::Create { dir: hierarchy.dir_path(path), errno, hint }
}

/// A v2 controller works in a cgroup only when every parent lists it in `subtree_control`. The cgroup itself
/// never does: it contains processes.
///
/// A controller that cannot be enabled is not an error here: it is one when a limit needs it.
fn enable_controllers(v2: &Hierarchy, path: &CgroupPath) -> Result<(), CgroupError> {
    let wanted: Vec<&str> = V2_WANTED.into_iter().filter(|name| v2.has(name)).collect();
    if wanted.is_empty() || has_all(v2, path, &wanted)? {
        return Ok(());
    }
    enable(&open_root(v2)?, &wanted)?;
    let mut above: Vec<CgroupPath> = std::iter::successors(path.parent(), CgroupPath::parent).collect();
    while let Some(level) = above.pop() {
        if let Some(dir) = v2.dir(&level)? {
            enable(&dir, &wanted)?;
        }
    }
    Ok(())
}

fn has_all(v2: &Hierarchy, path: &CgroupPath, wanted: &[&str]) -> Result<bool, CgroupError> {
    let Some(dir) = v2.dir(path)? else { return Ok(false) };
    let mut buffer = [0u8; 1024];
    let there = dir.read("cgroup.controllers", &mut buffer)?;
    Ok(wanted.iter().all(|name| there.split_whitespace().any(|t| t == *name)))
}

fn open_root(v2: &Hierarchy) -> Result<Dir, CgroupError> {
    Dir::open(v2.root(), ".")
        .map_err(|errno| CgroupError::Host { path: v2.mount.clone(), source: errno.into() })
}

fn enable(dir: &Dir, wanted: &[&str]) -> Result<(), CgroupError> {
    let mut buffer = [0u8; BUFFER];
    let enabled = dir.read("cgroup.subtree_control", &mut buffer)?;
    let missing: Vec<&str> =
        wanted.iter().copied().filter(|name| !enabled.split_whitespace().any(|e| e == *name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let all = missing.iter().map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ");
    if dir.try_write("cgroup.subtree_control", &all).is_ok() {
        return Ok(());
    }
    // One that cannot be enabled (cpu with realtime tasks, cpuset in a threaded tree) must not keep the others off.
    for name in missing {
        if let Err(errno) = dir.try_write("cgroup.subtree_control", &format!("+{name}")) {
            let error = dir.write_error("cgroup.subtree_control", &format!("+{name}"), errno);
            tracing::debug!(%error, "cgroup controller not enabled");
        }
    }
    Ok(())
}
