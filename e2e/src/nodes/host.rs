//! The outermost process: it starts the hub, and compares the machine before and after.

use std::path::Path;
use std::process::ExitStatus;

use tokio::signal::unix::{SignalKind, signal};

use super::cgroups;
use super::interrupted::{self, PREFIX};
use super::report::until;
use super::snapshot::snapshot;
use super::sysctls::Sysctls;
use crate::Result;
use crate::programs::{self, Program};

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
    interrupted::clean()?;
    // Nodes see /tmp of the host, but not its /var and /run.
    let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in("/tmp")?;
    let name =
        folder.path().file_name().ok_or("a temporary folder has a name")?.to_string_lossy().into_owned();
    let _sysctls = Sysctls::remember(folder.path())?;
    let before = snapshot(&name)?;
    let status = run_hub(folder.path());
    let removed = cgroups::remove(&name);
    let failure = match status? {
        None => Some("interrupted".to_owned()),
        Some(status) if status.success() => None,
        Some(status) => {
            Some(format!("the cluster failed ({status}); its logs are in {}", folder.keep().display()))
        }
    };
    match (failure, removed) {
        (None, removed) => removed?,
        (Some(failure), Ok(())) => return Err(failure.into()),
        (Some(failure), Err(error)) => return Err(format!("{failure}; {error}").into()),
    }
    until("the machine is as before", std::time::Duration::from_secs(10), || {
        let after = snapshot(&name)?;
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
        // A killed process kills nothing by itself: the kernel ends the hub then.
        let mut hub = tokio::process::Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare"])
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
