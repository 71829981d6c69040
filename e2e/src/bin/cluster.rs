//! `cluster`: makes a cluster of two nodes, tests it, and takes it away; `e2e/cluster.sh` runs it.
//!
//! With arguments it is one of the processes that it starts itself, in other namespaces.

use std::path::Path;

use crisp_e2e::nodes::{checks, enter, host, init};

fn main() -> crisp_e2e::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // By hand they would change the host.
    if let Some("hub" | "init") = words.first().map(String::as_str)
        && std::process::id() != 1
    {
        return Err("this is a part of the cluster: run `cluster` without arguments".into());
    }
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => host::run(),
        ["hub", folder] => checks::run(Path::new(folder)),
        ["boot", cgroup, rest @ ..] => enter::boot(cgroup, rest),
        ["init", name, disk] => init::run(name, Path::new(disk)),
        ["enter", cgroup, init, rest @ ..] => enter::enter(cgroup, init, rest),
        _ => Err("cluster takes no arguments".into()),
    }
}
