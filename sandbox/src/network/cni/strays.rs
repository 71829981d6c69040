//! Plugin calls of a server that was killed. They continue without it: an ADD that ends after the DEL of the
//! next server would leave resources that no server knows, and an ADD that is killed halfway leaves some that
//! plugins fail to free. So the next server waits for them.

use std::fs;
use std::time::Duration;

use crisp_executor::ids::PodId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, getpgid, getpid, pidfd_open, pidfd_send_signal};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

const POLL: Duration = Duration::from_millis(5);
/// Time limit for reading all processes: reading the environment of a blocked process may block.
const SCAN: Duration = Duration::from_secs(5);

/// Kills the plugins that an earlier server has called with the verb GC: they would free what pods get from now on.
pub(super) async fn end_collecting() {
    let Ok(Ok(strays)) = timeout(SCAN, spawn_blocking(|| strays(is_collecting))).await else { return };
    for process in &strays {
        let _ = pidfd_send_signal(process, Signal::KILL);
        tracing::info!("killed a CNI plugin that an earlier server had called with GC");
    }
    let ended = async {
        while strays.iter().any(runs) {
            sleep(POLL).await;
        }
    };
    let _ = timeout(SCAN, ended).await;
}

/// Waits for the plugins that run for the pod, and their child processes; kills them at the deadline.
pub(super) async fn wait_for_strays(pod: &PodId, deadline: Duration) {
    let of = pod.clone();
    let Ok(Ok(strays)) =
        timeout(SCAN, spawn_blocking(move || strays(|environment| is_plugin_for(environment, &of)))).await
    else {
        return;
    };
    if strays.is_empty() {
        return;
    }
    tracing::info!(pod = pod.short(), "waiting for CNI plugins that an earlier server has called");
    let ended = async {
        while strays.iter().any(runs) {
            sleep(POLL).await;
        }
    };
    if timeout(deadline, ended).await.is_err() {
        for process in &strays {
            // It may have just ended.
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
        tracing::warn!(pod = pod.short(), after = ?deadline, "killed CNI plugins that an earlier server had called");
    }
}

/// The plugins with such an environment.
fn strays(is_it: impl Fn(&[u8]) -> bool) -> Vec<OwnedFd> {
    // A plugin is in the cgroup of the server that called it. Containers are not, whatever their environment
    // says.
    let Some(own) = cgroup_of("self") else { return Vec::new() };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    processes.filter_map(|pid| stray(pid, &is_it, &own)).collect()
}

fn cgroup_of(process: &str) -> Option<Vec<u8>> {
    fs::read(format!("/proc/{process}/cgroup")).ok()
}

fn stray(pid: i32, is_it: impl Fn(&[u8]) -> bool, own_cgroup: &[u8]) -> Option<OwnedFd> {
    // Opened before it is examined, so that its number cannot be reused.
    let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    if cgroup_of(&pid.to_string())? != own_cgroup {
        return None;
    }
    (is_it(&fs::read(format!("/proc/{pid}/environ")).ok()?) && !is_called_here(pid)).then_some(process)
}

/// Whether this process has called the plugin, or the plugin from which it comes: a plugin leads its process group.
fn is_called_here(pid: i32) -> bool {
    let plugin = Pid::from_raw(pid).and_then(|pid| getpgid(Some(pid)).ok());
    let stat = plugin.and_then(|plugin| fs::read_to_string(format!("/proc/{plugin}/stat")).ok());
    stat.is_some_and(|stat| parent(&stat) == Some(getpid().as_raw_nonzero().get()))
}

/// `PID (NAME) STATE PPID ...`; the name may contain anything. See proc_pid_stat(5).
fn parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn runs(process: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&now)) == Ok(0)
}

fn is_collecting(environment: &[u8]) -> bool {
    environment.split(|byte| *byte == 0).any(|variable| variable == b"CNI_COMMAND=GC")
}

fn is_plugin_for(environment: &[u8], pod: &PodId) -> bool {
    let variables = || environment.split(|byte| *byte == 0);
    let is_plugin = variables().any(|variable| variable.starts_with(b"CNI_COMMAND="));
    let of = variables().find_map(|variable| variable.strip_prefix(b"CNI_CONTAINERID="));
    is_plugin && of == Some(pod.as_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plugins_of_the_pod_are_strays() {
        let (ours, other) = (PodId::random(), PodId::random());
        let environment =
            |command: &str, pod: &PodId| format!("PATH=/bin\0{command}=ADD\0CNI_CONTAINERID={pod}\0");
        assert!(is_plugin_for(environment("CNI_COMMAND", &ours).as_bytes(), &ours));
        assert!(!is_plugin_for(environment("CNI_COMMAND", &other).as_bytes(), &ours));
        assert!(!is_plugin_for(environment("COMMAND", &ours).as_bytes(), &ours));
        assert!(!is_plugin_for(b"", &ours));
        assert_eq!(parent("7 (a) b) S 42 7 7 0"), Some(42));
        assert!(is_collecting(b"PATH=/bin\0CNI_COMMAND=GC\0") && !is_collecting(b"CNI_COMMAND=GCX\0"));
    }
}
