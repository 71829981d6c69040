//! Finds a pod's monitor in proc(5), when its record or socket is lost.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use crisp_executor::cgroup::CgroupPath;
use crisp_executor::ids::PodId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use crate::arguments::first_arguments;
use crate::pod::cgroups::{CgroupDriver, PodCgroups};

/// Time limit for a killed monitor to end.
const DEATH: Duration = Duration::from_secs(5);

/// Whether process `pid` is the monitor of `pod`: process ids are reused.
pub(crate) fn is_monitor(pid: i32, pod: &PodId) -> bool {
    let expected = format!("crisp-pod\0{pod}\0");
    first_arguments(pid, expected.len() as u64) == expected.as_bytes()
}

/// Searches all processes for the monitor of `pod`.
pub(crate) fn find(pod: &PodId) -> Option<i32> {
    let processes = fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(|pid| is_monitor(*pid, pod))
}

/// Kills the monitor of `pod` in any cgroup, and waits until it has ended. If a copy cannot be distinguished
/// from the fork server that made it, both are killed. A fresh monitor may not be in the pod's cgroup until
/// it has opened its pod. Blocks.
///
/// # Errors
/// It does not end.
pub(crate) fn kill(pod: &PodId) -> io::Result<()> {
    let begun = Instant::now();
    while let Some(pid) = find(pod).and_then(Pid::from_raw) {
        kill_process(pid, pod)?;
        if begun.elapsed() > DEATH {
            return Err(io::Error::other(format!("monitor process {pid} was killed and is there again")));
        }
    }
    Ok(())
}

/// The processes that the monitor of `pod` has started, including the first processes of containers.
pub(crate) fn children(pod: &PodId) -> Vec<OwnedFd> {
    let Some(monitor) = find(pod) else { return Vec::new() };
    // Only if the kernel provides the file, see proc(5).
    let pids = fs::read_to_string(format!("/proc/{monitor}/task/{monitor}/children")).unwrap_or_default();
    let open = |pid: &str| {
        let process = pidfd_open(Pid::from_raw(pid.parse().ok()?)?, PidfdFlags::empty()).ok()?;
        // Process ids are reused; the descriptor keeps this one.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
        (parent == monitor.to_string()).then_some(process)
    };
    pids.split_whitespace().filter_map(open).collect()
}

/// # Errors
/// The kernel's error; success when it has ended already.
pub(crate) fn kill_child(process: &OwnedFd) -> io::Result<()> {
    match pidfd_send_signal(process, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn kill_process(pid: Pid, pod: &PodId) -> io::Result<()> {
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(()),
        other => other?,
    };
    // The descriptor prevents the reuse of the process id: now its identity is certain.
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
    // Usually another task waits for it, or it is the child of another process. If the fork server could not
    // report it, only this call does.
    let _ = waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    Ok(())
}

/// The cgroup parent in the pod's configuration and its driver, from its monitor's cgroup.
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

    use super::*;

    #[test]
    fn a_process_is_a_monitor_by_its_arguments() {
        let pod = PodId::random();
        // sh uses the first word after its options as a script, which here must be the name of the program.
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
    fn what_a_monitor_has_started_is_known_and_killed() {
        let (pod, folder) = (PodId::random(), tempfile::tempdir().unwrap());
        fs::write(folder.path().join(pod.as_str()), "sleep 1000 &\nwait\n").unwrap();
        let mut shell = Command::new("/bin/sh");
        shell.arg0("crisp-pod").args([pod.as_str()]).current_dir(folder.path());
        let mut monitor = shell.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let child = loop {
            if let Some(child) = children(&pod).pop() {
                break child;
            }
            assert!(Instant::now() < deadline, "it never has a child");
        };
        kill(&pod).unwrap();
        kill_child(&child).unwrap();
        let wait = Timespec { tv_sec: 10, tv_nsec: 0 };
        assert_eq!(poll(&mut [PollFd::new(&child, PollFlags::IN)], Some(&wait)), Ok(1));
        let _ = monitor.wait();
    }

    #[test]
    fn all_monitors_of_a_pod_are_killed() {
        let (pod, folder) = (PodId::random(), tempfile::tempdir().unwrap());
        fs::write(folder.path().join(pod.as_str()), "read line\n").unwrap();
        let shell = || {
            let mut shell = Command::new("/bin/sh");
            shell.arg0("crisp-pod").args([pod.as_str()]).current_dir(folder.path()).stdin(Stdio::piped());
            shell.spawn().unwrap()
        };
        let children = [shell(), shell()];
        let begun = Instant::now();
        while !children.iter().all(|child| is_monitor(i32::try_from(child.id()).unwrap(), &pod)) {
            assert!(begun.elapsed() < Duration::from_secs(10), "their arguments are never seen");
        }
        kill(&pod).unwrap();
        assert_eq!(find(&pod), None);
        // `kill` may have waited for it already.
        children.into_iter().for_each(|mut child| drop(child.wait()));
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
