//! Walks all cgroups of the host, to find the remains of one.

use std::collections::HashMap;
use std::path::Path;

use super::hierarchy::Host;
use super::path::CgroupPath;

/// Limit for the depth: pods and containers are at about the fifth level, but a container may make deep
/// trees.
const DEEPEST: usize = 12;

pub(super) fn walk(host: &Host, mut visit: impl FnMut(&CgroupPath) -> bool) {
    // Which paths have been visited, and whether to look below them.
    let mut visited: HashMap<CgroupPath, bool> = HashMap::new();
    for hierarchy in host.v1.iter().chain(&host.v2) {
        let mut folders = vec![(String::new(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            for name in children(&hierarchy.mount, &folder) {
                let Ok(path) = CgroupPath::parse(&format!("{folder}/{name}")) else { continue };
                let goes_on = *visited.entry(path.clone()).or_insert_with(|| visit(&path));
                if goes_on && depth < DEEPEST {
                    folders.push((path.into(), depth + 1));
                }
            }
        }
    }
}

/// None if it is gone.
fn children(mount: &Path, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(mount.join(folder.trim_start_matches('/')));
    let folders = entries.into_iter().flatten().flatten().filter(|entry| {
        // Not a symbolic link, such as those of `cpu` and `cpuacct`.
        entry.file_type().is_ok_and(|kind| kind.is_dir())
    });
    folders.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
