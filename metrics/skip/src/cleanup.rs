//! The end of what a failed test has left running, so that the tests after it find a clean machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const CGROUPS: &str = "/sys/fs/cgroup";
const PROCESSES: &str = "cgroup.procs";

/// Belongs to a test. Dropped by a panic it kills every process below a cgroup and removes the cgroup, and the bridge
/// with its nftables table. A test that passes is expected to leave nothing: then the drop does nothing, so that the
/// search for leaks finds them.
#[derive(Debug)]
pub struct Cleanup {
    cgroup: String,
    bridge: Option<String>,
}

impl Cleanup {
    /// `cgroup`: its last name, which no other test has; with the systemd driver the name of the slice without `.slice`.
    #[must_use]
    pub fn new(cgroup: impl Into<String>, bridge: Option<String>) -> Self {
        Self { cgroup: cgroup.into(), bridge }
    }

    fn run(&self) {
        let slice = format!("{}.slice", self.cgroup);
        let mut found = Vec::new();
        find(Path::new(CGROUPS), &[&self.cgroup, &slice], &mut found);
        // A killed process keeps its cgroup for a moment.
        for _ in 0..100 {
            kill_all(&found);
            if found.iter().filter(|folder| folder.exists()).all(|folder| remove(folder)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if found.iter().any(|folder| folder.ends_with(&slice)) {
            quietly(&["systemctl", "stop", &slice]);
        }
        if let Some(bridge) = &self.bridge {
            quietly(&["ip", "link", "delete", bridge]);
            quietly(&["nft", "delete", "table", "ip", &format!("crisp-{bridge}")]);
            quietly(&["nft", "delete", "table", "ip6", &format!("crisp-{bridge}")]);
        }
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.run();
        }
    }
}

fn folders(of: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(of).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

fn find(at: &Path, names: &[&str], found: &mut Vec<PathBuf>) {
    for folder in folders(at) {
        if names.iter().any(|name| folder.ends_with(name)) {
            found.push(folder);
        } else {
            find(&folder, names, found);
        }
    }
}

fn kill_all(cgroups: &[PathBuf]) {
    let mut pids = Vec::new();
    for cgroup in cgroups {
        processes(cgroup, &mut pids);
    }
    if !pids.is_empty() {
        let words: Vec<_> = ["kill", "-KILL"].into_iter().chain(pids.iter().map(String::as_str)).collect();
        quietly(&words);
    }
}

fn processes(cgroup: &Path, pids: &mut Vec<String>) {
    let listed = std::fs::read_to_string(cgroup.join(PROCESSES)).unwrap_or_default();
    // 0 is a process outside of this PID namespace.
    pids.extend(listed.lines().filter(|pid| *pid != "0").map(ToOwned::to_owned));
    folders(cgroup).for_each(|inner| processes(&inner, pids));
}

/// Removes a cgroup with those inside. False: one has processes.
fn remove(cgroup: &Path) -> bool {
    folders(cgroup).all(|inner| remove(&inner)) && std::fs::remove_dir(cgroup).is_ok()
}

fn quietly(words: &[&str]) {
    let _ = Command::new(words[0]).args(&words[1..]).stderr(Stdio::null()).status();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cgroup_with_a_process(name: &str) -> Option<(PathBuf, std::process::Child)> {
        crate::needs!("sleep");
        let root = ["/sys/fs/cgroup/pids", CGROUPS]
            .into_iter()
            .map(Path::new)
            .find(|at| at.join("cgroup.procs").exists());
        let Some(root) = root else { crate::unsupported!(CgroupV2) };
        let cgroup = root.join(name);
        std::fs::create_dir_all(cgroup.join("inner")).unwrap();
        let process = Command::new("sleep").arg("1000").spawn().unwrap();
        std::fs::write(cgroup.join("inner/cgroup.procs"), process.id().to_string()).unwrap();
        Some((cgroup, process))
    }

    #[test]
    fn a_test_that_panics_leaves_no_process_and_no_cgroup() {
        let name = format!("crisp-cleanup-{}", std::process::id());
        let Some((cgroup, mut process)) = cgroup_with_a_process(&name) else { return };
        let cleanup = Cleanup::new(name.clone(), None);
        drop(cleanup);
        assert!(cgroup.exists() && process.try_wait().unwrap().is_none(), "the end of a test that passes");
        let panicked = std::thread::spawn(move || {
            let _cleanup = Cleanup::new(name, None);
            panic!("as a test that fails");
        });
        assert!(panicked.join().is_err());
        assert!(!process.wait().unwrap().success());
        assert!(!cgroup.exists());
    }
}
