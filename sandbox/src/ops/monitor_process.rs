//! A pod's monitor as proc(5) shows it: for pods whose record or socket is lost.

use std::fs;
use std::io;
use std::time::Duration;

use crisp_executor::cgroup::CgroupPath;
use crisp_executor::id::PodId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use crate::pod::cgroups::{CgroupDriver, PodCgroups};

/// For a killed monitor to be gone.
const DEATH: Duration = Duration::from_secs(5);

/// Whether process `pid` is the monitor of `pod`: process ids are reused.
pub(crate) fn is_monitor(pid: i32, pod: &PodId) -> bool {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut arguments = arguments.split(|byte| *byte == 0);
    arguments.next() == Some(b"crisp-pod") && arguments.next() == Some(pod.as_str().as_bytes())
}

/// Looks through all processes for the monitor of `pod`.
pub(crate) fn find(pod: &PodId) -> Option<i32> {
    let processes = fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(|pid| is_monitor(*pid, pod))
}

/// Kills the monitor of `pod` wherever it is, and waits until it has ended. Before a fresh monitor has opened
/// its pod it may not be in the pod's cgroup yet. Blocks.
///
/// # Errors
/// It does not end.
pub(crate) fn kill(pod: &PodId) -> io::Result<()> {
    let Some(pid) = find(pod).and_then(Pid::from_raw) else { return Ok(()) };
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(()),
        other => other?,
    };
    // The descriptor keeps the process id from being reused: now it is certain whose it is.
    if !is_monitor(pid.as_raw_nonzero().get(), pod) {
        return Ok(());
    }
    match pidfd_send_signal(&process, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(errno) => return Err(errno.into()),
    }
    let deadline = Timespec { tv_sec: DEATH.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: 0 };
    if poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&deadline))? == 0 {
        return Err(io::Error::other(format!("monitor process {pid} was killed and has not ended")));
    }
    // Usually it is waited for elsewhere, or is the child of another process. One of which the fork server
    // did not get to tell has no other to wait for it.
    let _ = waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    Ok(())
}

/// The cgroup parent that the pod's configuration named and its driver, from where its monitor is.
pub(crate) fn cgroup_parent(pid: i32, pod: &PodId) -> Option<(Option<CgroupPath>, CgroupDriver)> {
    let parent = parse_cgroup_parent(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?, pod)?;
    Some(PodCgroups::recognize(pod, &parent))
}

/// The parent of the pod's own cgroup. See cgroups(7), `/proc/PID/cgroup`: `4:memory:/path` per hierarchy.
fn parse_cgroup_parent(text: &str, pod: &PodId) -> Option<CgroupPath> {
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let mut parents = paths.filter_map(|path| path.strip_suffix(pod.as_str())?.strip_suffix('/'));
    CgroupPath::parse(parents.find(|parent| !parent.is_empty())?).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_process_is_a_monitor_by_its_arguments() {
        let pod = PodId::random();
        // sh takes the words after its options for a script, and here for the name of the program.
        let mut shell = Command::new("/bin/sh");
        shell.arg0("crisp-pod").args([pod.as_str()]).current_dir("/").stdin(Stdio::piped());
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(pod.as_str()), "read line\n").unwrap();
        let mut child = shell.current_dir(folder.path()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_monitor(pid, &pod) {
            assert!(Instant::now() < deadline, "its arguments are never seen");
        }
        assert_eq!(find(&pod), Some(pid));
        assert!(!is_monitor(pid, &PodId::random()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(find(&pod), None);
    }

    #[test]
    fn the_parent_is_read_from_v1_and_v2() {
        let pod = PodId::random();
        let parent = |text: &str| parse_cgroup_parent(text, &pod).map(|path| path.as_str().to_owned());
        assert_eq!(parent(&format!("0::/kube/pod1/{pod}\n")).as_deref(), Some("/kube/pod1"));
        let mixed = format!("4:memory:/kube/pod1/{pod}\n1:name=systemd:/\n0::/init\n");
        assert_eq!(parent(&mixed).as_deref(), Some("/kube/pod1"));
        assert_eq!(parent("0::/init\n"), None);
        assert_eq!(parent(&format!("0::/{pod}\n")), None);
    }
}
