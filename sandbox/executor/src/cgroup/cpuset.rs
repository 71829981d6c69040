//! cpuset: which CPUs and memory nodes may be used.

use super::dir::Dir;
use super::error::CgroupError;
use super::hierarchy::Hierarchy;
use super::path::CgroupPath;
use super::resources::Cpuset;

/// The files are the same in v1 and v2.
pub(super) fn apply(dir: &Dir, limits: &Cpuset) -> Result<(), CgroupError> {
    for (file, value) in [("cpuset.cpus", &limits.cpus), ("cpuset.mems", &limits.mems)] {
        if let Some(value) = value.as_deref().filter(|v| !v.is_empty()) {
            dir.write(file, value)?;
        }
    }
    Ok(())
}

/// Gives a new v1 cpuset, which is empty and accepts no process, the values of its parent, from the top down,
/// because its parents may be new too.
pub(super) fn inherit(hierarchy: &Hierarchy, path: &CgroupPath) -> Result<(), CgroupError> {
    let mut levels: Vec<CgroupPath> = Vec::new();
    let mut level = Some(path.clone());
    let mut values = None;
    while let Some(current) = level {
        if let Some(found) = read(hierarchy, Some(&current))? {
            values = Some(found);
            break;
        }
        level = current.parent();
        levels.push(current);
    }
    if levels.is_empty() {
        return Ok(());
    }
    let Some((cpus, mems)) = values.map_or_else(|| read(hierarchy, None), |v| Ok(Some(v)))? else {
        return Ok(());
    };
    while let Some(level) = levels.pop() {
        let Some(dir) = hierarchy.dir(&level)? else { continue };
        dir.write("cpuset.cpus", &cpus)?;
        dir.write("cpuset.mems", &mems)?;
    }
    Ok(())
}

/// CPUs and nodes of a level (None: the root); None when they are empty.
fn read(hierarchy: &Hierarchy, path: Option<&CgroupPath>) -> Result<Option<(String, String)>, CgroupError> {
    let dir = match path {
        Some(path) => hierarchy.dir(path)?,
        None => Some(
            Dir::open(hierarchy.root(), ".")
                .map_err(|errno| CgroupError::Host { path: hierarchy.mount.clone(), source: errno.into() })?,
        ),
    };
    let Some(dir) = dir else { return Ok(None) };
    let (mut a, mut b) = ([0u8; 4096], [0u8; 4096]);
    let (cpus, mems) = (dir.read("cpuset.cpus", &mut a)?.trim(), dir.read("cpuset.mems", &mut b)?.trim());
    Ok((!cpus.is_empty() && !mems.is_empty()).then(|| (cpus.to_owned(), mems.to_owned())))
}
