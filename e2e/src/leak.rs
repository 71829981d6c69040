//! Finds leaks on a machine: everything whose name contains its folder, its bridge or the id of a pod.

use std::path::Path;
use std::process::Command;

use crate::Machine;

/// Returns all leftovers, one line each; `ids` are pods and containers that the machine had.
#[must_use]
pub fn find(machine: &Machine, ids: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    found.extend(monitors(machine).into_iter().map(|pid| format!("process {pid}: {}", command_line(pid))));
    found.extend(mounts(machine));
    found.extend(links(machine));
    found.extend(tables(machine));
    found.extend(cgroups(ids).into_iter().map(|folder| format!("cgroup {folder}")));
    found.extend(folders(machine));
    found
}

/// Ends the processes that a failed test has left, and removes what they had.
pub fn clean(machine: &Machine) {
    let ids = pod_ids(machine);
    for pid in monitors(machine) {
        // Containers are in PID namespaces or process groups of their own, so the whole tree is killed.
        for process in tree(pid) {
            if let Some(process) = rustix::process::Pid::from_raw(process) {
                let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
            }
        }
    }
    remove_cgroups(&ids);
    remove_empty_parents();
    let _ = Command::new("ip")
        .args(["link", "delete", machine.bridge()])
        .stderr(std::process::Stdio::null())
        .status();
    unmount_below(machine.folder());
    for table in tables(machine) {
        let mut words = table.split_whitespace().skip(1);
        if let (Some(family), Some(name)) = (words.next(), words.next()) {
            let _ = Command::new("nft").args(["delete", "table", family, name]).status();
        }
    }
}

/// Unmounts everything below a folder, the last one first: it may be in another.
pub(crate) fn unmount_below(folder: &Path) {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts = table.lines().rev().filter_map(|line| line.split(' ').nth(4));
    for mount in mounts.filter(|mount| Path::new(mount).starts_with(folder)) {
        let _ = Command::new("umount").arg(mount).status();
    }
}

/// Removes the cgroups that have these ids in their names.
pub(crate) fn remove_cgroups(ids: &[String]) {
    // A killed process keeps its cgroup for a moment.
    for _ in 0..20 {
        let folders = cgroups(ids);
        if folders.is_empty() {
            break;
        }
        // systemd removes scopes.
        let ours = folders.iter().rev().filter(|folder| !folder.ends_with(".scope"));
        let emptied = ours.filter(|folder| std::fs::remove_dir(folder).is_ok()).count();
        if emptied == 0 {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

/// Removes the cgroup that servers make for pods without a parent of their own, where it is empty. A server that is
/// about to make a pod there makes it again, as it does when another server has removed it.
fn remove_empty_parents() {
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let parents = hierarchies.map(|entry| entry.path().join("crisp"));
    for parent in parents.chain(["/sys/fs/cgroup/crisp".into()]) {
        let _ = std::fs::remove_dir(parent);
    }
}

/// All process ids.
pub(crate) fn processes() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

pub(crate) fn command_line(pid: i32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// The ids of the pods and containers that have folders on the machine.
fn pod_ids(machine: &Machine) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    for folder in
        [machine.state().join("pods"), machine.root().join("pods"), machine.root().join("containers")]
    {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        ids.extend(entries.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    }
    ids
}

/// The monitors whose log or socket is in the machine's folder: their stderr is a file there.
fn monitors(machine: &Machine) -> Vec<i32> {
    processes()
        .filter(|pid| command_line(*pid).contains("crisp-pod"))
        .filter(|pid| {
            let stderr = std::fs::read_link(format!("/proc/{pid}/fd/2")).unwrap_or_default();
            stderr.to_string_lossy().contains(&*machine.folder().to_string_lossy())
        })
        .collect()
}

impl Machine {
    /// The process ids of the monitors of a pod.
    #[must_use]
    pub fn monitors(&self, pod: &str) -> Vec<i32> {
        monitors(self).into_iter().filter(|pid| command_line(*pid).contains(pod)).collect()
    }
}

/// A process and all its descendants.
#[must_use]
pub fn tree(pid: i32) -> Vec<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let mut all: Vec<i32> =
        children.split_whitespace().filter_map(|c| c.parse().ok()).flat_map(tree).collect();
    all.push(pid);
    all
}

fn mounts(machine: &Machine) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let folder = machine.folder().to_string_lossy().into_owned();
    let ours = |line: &&str| line.contains(&folder);
    table.lines().filter(ours).map(|line| format!("mount {line}")).collect()
}

/// The network namespaces that have a path for CNI plugins, of all machines on this host.
#[must_use]
pub fn network_namespaces() -> Vec<String> {
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("crisp-")).collect()
}

fn links(machine: &Machine) -> Vec<String> {
    let bridge = Path::new("/sys/class/net").join(machine.bridge());
    if !bridge.exists() {
        return vec![];
    }
    let ports = std::fs::read_dir(bridge.join("brif")).into_iter().flatten().flatten();
    let mut found: Vec<_> =
        ports.map(|port| format!("veth {}", port.file_name().to_string_lossy())).collect();
    found.push(format!("bridge {}", machine.bridge()));
    found
}

fn tables(machine: &Machine) -> Vec<String> {
    let Ok(output) = Command::new("nft").args(["list", "tables"]).output() else { return vec![] };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter(|line| is_table_of(machine.bridge(), line)).map(ToOwned::to_owned).collect()
}

/// Whether a line of `nft list tables` is about a table of this bridge, or of a `crisp run` beside it. The names of
/// other machines' bridges may begin like its own.
fn is_table_of(bridge: &str, line: &str) -> bool {
    let name = line.split_whitespace().nth(2).and_then(|table| table.strip_prefix("crisp-"));
    name.and_then(|name| name.strip_prefix(bridge)).is_some_and(|rest| rest.is_empty() || rest == "r")
}

/// The cgroups that have one of these ids in their path, outer ones first.
fn cgroups(ids: &[String]) -> Vec<String> {
    let listing = Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-path", "*/*"]).output();
    let text = listing.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    let theirs = |line: &&str| ids.iter().any(|id| line.contains(id.as_str()));
    text.lines().filter(theirs).map(ToOwned::to_owned).collect()
}

/// Finds folders of pods and containers. There must be none when no pod is left.
fn folders(machine: &Machine) -> Vec<String> {
    let places =
        [machine.state().join("pods"), machine.root().join("pods"), machine.root().join("containers")];
    let mut found = Vec::new();
    for place in places {
        let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| format!("folder {}", entry.path().display())));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_other_machines_are_not_taken_for_its_own() {
        for (line, is_own) in [
            ("table ip crisp-ct7n1", true),
            ("table ip6 crisp-ct7n1r", true),
            ("table ip crisp-ct7n15", false),
            ("table ip crisp-ct71n1", false),
            ("table ip other", false),
        ] {
            assert_eq!(is_table_of("ct7n1", line), is_own, "{line}");
        }
    }
}
