//! Cgroups that the tests make, on whatever this host has of them.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crisp_executor::cgroup::JoinFds;
use crisp_executor::plan::{CgroupJoin, FdIndex, PidNamespace};
use crisp_monitor::wire::ExitStatus;
use crisp_sandbox::spawn::MonitorBinary;
use rustix::fd::OwnedFd;

use crate::harness::{Pod, exit_of, gone, missing, request, until};
use crate::plans::sh;

/// A cgroup, gone when dropped, if nothing is in it any more.
pub struct Cgroup(PathBuf);

impl Cgroup {
    fn new(hierarchy: &Path) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = hierarchy.join(format!("crisp-monitor-test-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// v1 of `controller`, where the host has it.
    fn v1(controller: &'static str) -> Option<Self> {
        let hierarchy = Path::new("/sys/fs/cgroup").join(controller);
        if !hierarchy.join("tasks").exists() {
            crisp_skip::unsupported!(CgroupV1(controller));
        }
        Some(Self::new(&hierarchy))
    }

    /// v2, alone or beside v1.
    pub fn v2() -> Option<Self> {
        let hierarchies = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        match hierarchies.into_iter().find(|path| path.join("cgroup.controllers").exists()) {
            Some(path) => Some(Self::new(path)),
            None => crisp_skip::unsupported!(CgroupV2),
        }
    }

    pub fn folder(&self) -> OwnedFd {
        std::fs::File::open(&self.0).unwrap().into()
    }

    /// On v2.
    pub fn freeze(&self, frozen: bool) {
        std::fs::write(self.0.join("cgroup.freeze"), if frozen { "1" } else { "0" }).unwrap();
    }

    fn reading(&self, file: &str) -> OwnedFd {
        std::fs::File::open(self.0.join(file)).unwrap().into()
    }

    fn writing(&self, file: &str) -> OwnedFd {
        OpenOptions::new().write(true).open(self.0.join(file)).unwrap().into()
    }

    pub fn pids(&self) -> Vec<i32> {
        let text = std::fs::read_to_string(self.0.join("cgroup.procs")).unwrap();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for _ in 0..50 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[tokio::test]
async fn the_kernels_out_of_memory_killer_is_seen() {
    if missing() {
        return;
    }
    let Some(tight) = Cgroup::v1("memory") else { return };
    std::fs::write(tight.0.join("memory.limit_in_bytes"), "16777216").unwrap();
    let pod = Pod::open().await;
    let mut events = pod.link.events();
    let mut plan = sh("x=$(busybox yes | busybox head -c 64000000)");
    plan.cgroup = CgroupJoin { v2: None, v1_tasks: vec![FdIndex(1)], oom_events: Some(FdIndex(2)) };
    let fds = vec![pod.root(), tight.writing("tasks"), tight.reading("memory.oom_control")];
    let (id, _) = pod.start_with(&plan, fds, |_| {}).await.unwrap();
    let exit = exit_of(&mut events, &id).await;
    assert_eq!((exit.status, exit.oom), (ExitStatus::Signal(9), true));
    pod.shutdown().await;
}

#[tokio::test]
async fn a_monitor_is_born_in_the_v2_cgroup_and_joins_those_of_v1() {
    if missing() {
        return;
    }
    let (Some(v1), Some(v2)) = (Cgroup::v1("pids"), Cgroup::v2()) else { return };
    let mut join = JoinFds { v2: Some(v2.folder()), v1_tasks: vec![v1.writing("tasks")], oom_events: None };
    let binary = std::fs::read(crate::harness::monitor()).unwrap();
    let pod = Pod::fresh_in(&MonitorBinary::new(&binary).unwrap(), &mut join).await;
    assert!(join.v2.is_none(), "nothing is left to be joined");
    assert_eq!(v2.pids(), [pod.pid]);
    let mut request = request(pod.folder.path());
    request.cgroup_v1_tasks = join.v1_tasks;
    pod.link.open_pod(request).await.unwrap();
    assert_eq!((v1.pids(), v2.pids()), (vec![pod.pid], vec![pod.pid]));
    pod.shutdown().await;
}

#[tokio::test]
async fn a_monitor_joins_the_pods_cgroups() {
    if missing() {
        return;
    }
    let (Some(v1), Some(v2)) = (Cgroup::v1("pids"), Cgroup::v2()) else { return };
    let (pod, _) = Pod::open_with(|request| {
        request.cgroup_v1_tasks = vec![v1.writing("tasks")];
        request.cgroup_v2 = Some(v2.folder());
    })
    .await;
    assert_eq!((v1.pids(), v2.pids()), (vec![pod.pid], vec![pod.pid]));
    pod.shutdown().await;
}

#[tokio::test]
async fn killing_all_of_a_container_on_v2_also_finds_who_ran_away() {
    if missing() {
        return;
    }
    let Some(cgroup) = Cgroup::v2() else { return };
    let pod = Pod::open().await;
    let mut events = pod.link.events();
    let mut plan = sh("busybox setsid busybox sleep 1000 & echo up; busybox sleep 1000");
    plan.pid = PidNamespace::Host;
    plan.cgroup = CgroupJoin { v2: Some(FdIndex(1)), v1_tasks: vec![], oom_events: None };
    let (id, _) = pod.start_with(&plan, vec![pod.root(), cgroup.folder()], |_| {}).await.unwrap();
    until("both processes", || cgroup.pids().len() == 2 && !pod.output(&id, "stdout").is_empty()).await;
    let pids = cgroup.pids();
    pod.link.signal(&id, 9, true).await.unwrap();
    assert_eq!(exit_of(&mut events, &id).await.status, ExitStatus::Signal(9));
    for pid in pids {
        gone(pid).await;
    }
    pod.shutdown().await;
}
