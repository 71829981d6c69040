//! The cgroups of nodes: a folder for the cluster in each hierarchy of the host, with one for each node.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Result;

/// One mounted hierarchy.
pub(super) struct Hierarchy {
    pub mount: PathBuf,
    pub kind: String,
    /// As `mount` takes them.
    pub options: String,
}

/// Every hierarchy that this process sees.
pub(super) fn hierarchies() -> Result<Vec<Hierarchy>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mut found = Vec::new();
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - cgroup") else { continue };
        let (Some(mount), Some(options)) = (left.split(' ').nth(4), right.split(' ').nth(2)) else {
            continue;
        };
        let is_v2 = right.starts_with('2');
        let options = options.split(',').filter(|option| !["rw", "ro", "xattr"].contains(option));
        let mut options: Vec<&str> = if is_v2 { vec![] } else { options.collect() };
        if options.iter().any(|option| option.starts_with("name=")) {
            options.insert(0, "none");
        }
        found.push(Hierarchy {
            mount: mount.into(),
            kind: if is_v2 { "cgroup2" } else { "cgroup" }.to_owned(),
            options: options.join(","),
        });
    }
    if !found.iter().any(|hierarchy| hierarchy.options == "memory") {
        return Err("the nodes need the memory controller of cgroup v1, which this host has not".into());
    }
    Ok(found)
}

/// Makes the folder in each hierarchy.
pub(super) fn make(path: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let mut folder = hierarchy.mount;
        for name in path.split('/') {
            let parent = folder.clone();
            folder.push(name);
            if std::fs::create_dir(&folder).is_ok() && folder.join("cpuset.cpus").exists() {
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    std::fs::write(folder.join(file), std::fs::read(parent.join(file))?)?;
                }
            }
        }
    }
    Ok(())
}

/// Moves this process into the folder of each hierarchy.
pub(super) fn join(path: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let file = hierarchy.mount.join(path).join("cgroup.procs");
        std::fs::write(&file, std::process::id().to_string())
            .map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(())
}

/// Removes the folder of each hierarchy with all below it. Killed processes keep theirs for a moment.
pub(super) fn remove(path: &str) -> Result<()> {
    for _ in 0..50 {
        let folders: Vec<PathBuf> =
            hierarchies()?.into_iter().map(|hierarchy| hierarchy.mount.join(path)).collect();
        folders.iter().for_each(|folder| remove_tree(folder));
        if !folders.iter().any(|folder| folder.exists()) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(format!("processes are still in the cgroup {path}").into())
}

/// The folders at the top of any hierarchy whose names begin like this.
pub(super) fn names(start: &str) -> Result<BTreeSet<String>> {
    let tops = hierarchies()?.into_iter().flat_map(|hierarchy| folders_of(&hierarchy.mount));
    let names = tops.filter_map(|folder| Some(folder.file_name()?.to_str()?.to_owned()));
    Ok(names.filter(|name| name.starts_with(start)).collect())
}

/// The folders below this one in any hierarchy that the memory controller does not have there. Crisp keeps the cgroup
/// of an ended exec below its container's, in one hierarchy, for the next one: these are left out.
pub(super) fn strays(path: &str) -> Result<Vec<PathBuf>> {
    let below = |root: &Path| -> BTreeSet<PathBuf> {
        let folders = tree(root).into_iter();
        folders.filter_map(|folder| Some(folder.strip_prefix(root).ok()?.to_owned())).collect()
    };
    let is_of_exec =
        |folder: &Path| folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("exec-"));
    let known = below(&memory(path)?);
    let mut found = Vec::new();
    for hierarchy in hierarchies()? {
        let root = hierarchy.mount.join(path);
        let all = below(&root);
        let strays = all.difference(&known).filter(|folder| !is_of_exec(folder));
        found.extend(strays.map(|folder| root.join(folder)));
    }
    Ok(found)
}

fn remove_tree(folder: &Path) {
    folders_of(folder).iter().for_each(|child| remove_tree(child));
    let _ = std::fs::remove_dir(folder);
}

/// The folder of the memory controller, as this process sees it.
pub(super) fn memory(path: &str) -> Result<PathBuf> {
    let found = hierarchies()?.into_iter().find(|hierarchy| hierarchy.options == "memory");
    Ok(found.ok_or("no memory controller")?.mount.join(path))
}

/// A folder and all below it.
pub(super) fn tree(folder: &Path) -> Vec<PathBuf> {
    let mut all = vec![folder.to_owned()];
    all.extend(folders_of(folder).iter().flat_map(|child| tree(child)));
    all
}

fn folders_of(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}
