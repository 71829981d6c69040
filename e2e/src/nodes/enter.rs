//! Processes of nodes: they join the node's cgroups and namespaces before their program starts.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use super::cgroups;
use crate::Result;

/// Becomes `unshare`, which makes the namespaces of a node in this cgroup and runs `cluster WORDS` as their first
/// process. When it ends, that process is killed, and with it all of the node.
///
/// # Errors
/// When the cgroup cannot be joined, or `unshare` not started.
pub fn boot(cgroup: &str, words: &[&str]) -> Result<()> {
    cgroups::join(cgroup)?;
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--ipc", "--uts", "--cgroup", "--fork", "--kill-child"]);
    Err(command.arg("--mount-proc").arg(std::env::current_exe()?).args(words).exec().into())
}

/// Becomes `nsenter`, which runs a program in the namespaces of the node with this first process.
///
/// # Errors
/// When the cgroup cannot be joined, or `nsenter` not started.
pub fn enter(cgroup: &str, init: &str, words: &[&str]) -> Result<()> {
    cgroups::join(cgroup)?;
    let mut command = Command::new("nsenter");
    command.args(["--target", init, "--net", "--mount", "--pid", "--ipc", "--uts", "--cgroup", "--"]);
    Err(command.args(words).exec().into())
}
