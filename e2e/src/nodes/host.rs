//! The outermost process: it starts the hub, and compares the machine before and after.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, ExitStatus};

use tokio::signal::unix::{SignalKind, signal};

use super::cgroups;
use super::report::until;
use super::sysctls::Sysctls;
use crate::programs::{self, Program};
use crate::{Result, leak};

const PROGRAMS: [Program; 8] = [
    programs::KUBELET,
    programs::KUBECTL,
    programs::API_SERVER,
    programs::CONTROLLER_MANAGER,
    programs::SCHEDULER,
    programs::PROXY,
    programs::FLANNEL,
    programs::COREDNS,
];

/// Makes the cluster, tests it and takes it away.
///
/// # Errors
/// The first thing that is not as it must be; also a difference that the machine has afterwards.
pub fn run() -> Result<()> {
    // Refuses a host of another kind before it builds for minutes.
    cgroups::hierarchies()?;
    programs::build(&PROGRAMS)?;
    // Nodes see /tmp of the host, but not its /var and /run.
    let folder = tempfile::Builder::new().prefix("crisp-cluster-").tempdir_in("/tmp")?;
    let name =
        folder.path().file_name().ok_or("a temporary folder has a name")?.to_string_lossy().into_owned();
    let _sysctls = Sysctls::remember();
    let before = machine(&name)?;
    let status = run_hub(folder.path());
    cgroups::remove(&name)?;
    let Some(status) = status? else { return Err("interrupted".into()) };
    if !status.success() {
        let kept = folder.keep();
        return Err(format!("the cluster failed ({status}); its logs are in {}", kept.display()).into());
    }
    until("the machine is as before", std::time::Duration::from_secs(10), || {
        let after = machine(&name)?;
        let changes: Vec<_> = after.symmetric_difference(&before).collect();
        if changes.is_empty() { Ok(()) } else { Err(format!("{changes:#?}").into()) }
    })?;
    println!("the machine is as before: links, rules, mounts, cgroups, processes");
    Ok(())
}

/// Runs the hub in namespaces of its own until it ends. When this process is interrupted, the hub is killed, and
/// with it all processes of the cluster; then there is no status.
fn run_hub(folder: &Path) -> Result<Option<ExitStatus>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let mut hup = signal(SignalKind::hangup())?;
        let mut hub = tokio::process::Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc"])
            .arg(std::env::current_exe()?)
            .arg("hub")
            .arg(folder)
            .kill_on_drop(true)
            .spawn()?;
        let stop = async {
            tokio::select! { _ = int.recv() => (), _ = term.recv() => (), _ = hup.recv() => () }
        };
        tokio::select! {
            status = hub.wait() => return Ok(Some(status?)),
            () = stop => (),
        }
        hub.kill().await?;
        Ok(None)
    })
}

/// Everything of the machine that a cluster could leave behind. Other tests may run at the same time: their
/// bridges (ct...), tables (crisp-...) and the interfaces of their pods (cr...) are left out.
fn machine(name: &str) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for (program, words) in [("ip", ["-o", "link"]), ("nft", ["list", "tables"])] {
        let output = Command::new(program).args(words).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = |line: &str| if program == "ip" { name_of_link(line) } else { line.to_owned() };
        found.extend(text.lines().map(line).filter(|line| !is_of_other_tests(line)));
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    found.extend(mounts.lines().filter(|line| line.contains(name)).map(|line| format!("mount {line}")));
    for hierarchy in cgroups::hierarchies()? {
        let folder = hierarchy.mount.join(name);
        found.extend(folder.exists().then(|| format!("cgroup {}", folder.display())));
    }
    let theirs = |pid: &i32| leak::command_line(*pid).contains(name) || is_below(*pid, name);
    found.extend(leak::processes().filter(theirs).map(|pid| format!("process {}", leak::command_line(pid))));
    Ok(found)
}

/// Whether the process works on files of the cluster.
fn is_below(pid: i32, name: &str) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    let links = ["cwd", "root", "fd/1", "fd/2"].map(|link| std::fs::read_link(process.join(link)));
    links.iter().flatten().any(|path| path.to_string_lossy().contains(name))
}

fn name_of_link(line: &str) -> String {
    line.split(": ").nth(1).unwrap_or(line).to_owned()
}

fn is_of_other_tests(line: &str) -> bool {
    line.contains(" crisp-") || ["ct", "cr", "veth"].iter().any(|start| line.starts_with(start))
}
