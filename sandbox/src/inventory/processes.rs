//! Processes: monitors are found by their arguments, others by their cgroup. Also the network namespaces of
//! monitors.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crisp_executor::ids::PodId;
use crisp_monitor::fork_server::UNNAMED;

use super::{Leftover, Owner, Owners, Proof, Thing, last_id};
use crate::arguments::first_arguments;

/// Limit for a command line: a monitor's is shorter.
const MAX_COMMAND: u64 = 256;

pub(super) fn list(owners: &Owners<'_>) -> Vec<Thing> {
    let own = namespace("self");
    pids().flat_map(|pid| of_process(owners, pid, own.as_deref())).collect()
}

/// All process ids.
fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn of_process(owners: &Owners<'_>, pid: i32, host: Option<&Path>) -> Vec<Thing> {
    let Some((what, owner)) = owner(owners, pid) else { return Vec::new() };
    let namespace = namespace(&pid.to_string()).filter(|own| Some(own.as_path()) != host);
    let mut things = Vec::new();
    if let (Owner::Pod(_), "monitor", Some(namespace)) = (&owner, what.as_str(), namespace) {
        let name = format!("{} of process {pid}", namespace.display());
        things.push(Thing { kind: "network namespace", name, owner: owner.clone() });
    }
    things.push(Thing { kind: "process", name: format!("{pid} ({what})"), owner });
    things
}

/// The kind and owner of the process; None if it does not belong to a Crisp.
fn owner(owners: &Owners<'_>, pid: i32) -> Option<(String, Owner)> {
    let command = first_arguments(pid, MAX_COMMAND);
    // A kernel thread, or a zombie, which only waits for its parent to reap it.
    if command.is_empty() {
        return None;
    }
    let mut arguments = command.split(|byte| *byte == 0);
    let leftover = || Leftover::Process(pid);
    if arguments.next() == Some(b"crisp-pod") {
        let argument = String::from_utf8_lossy(arguments.next()?).into_owned();
        if argument == UNNAMED {
            return Some(("fork server".to_owned(), of_fork_server(pid)));
        }
        let pod = PodId::parse(&argument).ok()?;
        let proof =
            if logs_below(pid, &owners.service.layout.pods_state()) { Proof::Place } else { Proof::Missing };
        return Some(("monitor".to_owned(), owners.of(pod.as_str(), proof, leftover)));
    }
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let id = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).find_map(last_id)?;
    let owner = owners.of(id, Proof::Missing, leftover);
    // Other runtimes have cgroups with ids too.
    (!matches!(owner, Owner::Another(_))).then(|| (name(pid), owner))
}

/// Whether some process has the arguments of the pod's monitor.
pub(super) fn has_monitor(pod: &PodId) -> bool {
    let start = format!("crisp-pod\0{pod}");
    pids().any(|pid| first_arguments(pid, MAX_COMMAND).starts_with(start.as_bytes()))
}

fn of_fork_server(pid: i32) -> Owner {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
    if parent == Some(std::process::id()) {
        Owner::Server("monitors are copies of it".to_owned())
    } else {
        Owner::Another("its parent is not this server".to_owned())
    }
}

/// Whether its standard error is a file below the folder, even a deleted one. The kernel shows the path in the
/// process's own mounts: a server in a container has the same path on another file system.
fn logs_below(pid: i32, folder: &Path) -> bool {
    let descriptor = PathBuf::from(format!("/proc/{pid}/fd/2"));
    let Ok(log) = fs::read_link(&descriptor) else { return false };
    let (Ok(file), Ok(own)) = (fs::metadata(&descriptor), fs::metadata(folder)) else { return false };
    let is_there =
        || fs::metadata(&log).is_ok_and(|there| (there.dev(), there.ino()) == (file.dev(), file.ino()));
    log.starts_with(folder) && file.dev() == own.dev() && (file.nlink() == 0 || is_there())
}

fn namespace(pid: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/net")).ok()
}

fn name(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}
