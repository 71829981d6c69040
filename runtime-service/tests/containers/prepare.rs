//! The parts of a start that are prepared after the response to CreateContainer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crisp_proto::runtime::v1 as proto;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use tonic::Request;

use crate::lab::{Lab, lab, resources, shell};

const MEMORY: i64 = 64 << 20;

/// The folders of a container's cgroup, in all hierarchies.
fn cgroups_of(id: &str) -> Vec<PathBuf> {
    let found = std::process::Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-name", id])
        .output()
        .unwrap();
    String::from_utf8(found.stdout).unwrap().lines().map(PathBuf::from).collect()
}

fn memory_limit(id: &str) -> Option<i64> {
    let read = |folder: &Path, file: &str| std::fs::read_to_string(folder.join(file)).ok();
    let limit = |folder: &PathBuf| {
        read(folder, "memory.max").or_else(|| read(folder, "memory.limit_in_bytes"))?.trim().parse().ok()
    };
    cgroups_of(id).iter().find_map(limit)
}

async fn until(what: impl Fn() -> bool) {
    for _ in 0..2000 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never comes to be");
}

/// With a memory limit, and no request for its start.
async fn prepared(lab: &Lab, pod: &str, name: &str) -> String {
    let mut config = shell(name, "echo it runs; exec sleep 1000");
    resources(&mut config).memory_limit_in_bytes = MEMORY;
    let id = lab.create(pod, config).await.unwrap();
    until(|| memory_limit(&id) == Some(MEMORY)).await;
    id
}

#[tokio::test]
async fn a_container_that_waits_for_its_start_has_its_cgroup_and_starts_in_it() {
    let lab = lab!();
    let pod = lab.pod("prepared").await;
    let id = prepared(&lab, &pod, "app").await;
    let inode = |id: &str| std::os::unix::fs::MetadataExt::ino(&cgroups_of(id)[0].metadata().unwrap());
    let before = inode(&id);
    lab.start(&id).await.unwrap();
    assert_eq!((inode(&id), memory_limit(&id)), (before, Some(MEMORY)));
    until(|| lab.log("app").contains("it runs")).await;
    lab.remove(&id).await.unwrap();
    assert_eq!(cgroups_of(&id), Vec::<PathBuf>::new());
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn limits_that_change_before_the_start_are_those_of_the_start() {
    let lab = lab!();
    let pod = lab.pod("changed").await;
    let id = prepared(&lab, &pod, "app").await;
    let linux = proto::LinuxContainerResources { memory_limit_in_bytes: 2 * MEMORY, ..Default::default() };
    let request = proto::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(linux),
        ..Default::default()
    };
    lab.service.update_container_resources(Request::new(request)).await.unwrap();
    lab.start(&id).await.unwrap();
    assert_eq!(memory_limit(&id), Some(2 * MEMORY));
    lab.remove_pod(&pod).await;
}

/// A driver that is loaded anew gives its device another number.
#[tokio::test]
async fn a_device_whose_number_changes_before_the_start_can_be_opened() {
    let lab = lab!();
    let pod = lab.pod("renumbered").await;
    let device = lab.dir.path().join("device");
    let make = |minor: u32| {
        let _ = std::fs::remove_file(&device);
        let number = rustix::fs::makedev(1, minor);
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, &device, kind, rustix::fs::Mode::from_raw_mode(0o666), number)
            .unwrap();
    };
    make(1);
    let mut config = shell("app", "(exec 3>/dev/log) && echo opened > /dev/shm/it; sleep 100");
    config.devices = vec![proto::Device {
        container_path: "/dev/log".into(),
        host_path: device.to_string_lossy().into_owned(),
        permissions: "rw".into(),
    }];
    let id = lab.create(&pod, config).await.unwrap();
    until(|| !cgroups_of(&id).is_empty()).await;
    make(11);
    lab.start(&id).await.unwrap();
    assert_eq!(lab.sh(&id, "sleep 0.2; cat /dev/shm/it").await, "opened\n");
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_container_that_is_never_started_leaves_nothing() {
    let lab = lab!();
    let pod = lab.pod("never").await;
    let (removed, left) = (prepared(&lab, &pod, "removed").await, prepared(&lab, &pod, "left").await);
    lab.remove(&removed).await.unwrap();
    assert_eq!(cgroups_of(&removed), Vec::<PathBuf>::new());
    let stop = proto::StopPodSandboxRequest { pod_sandbox_id: pod.clone() };
    lab.service.stop_pod_sandbox(Request::new(stop)).await.unwrap();
    until(|| cgroups_of(&left).is_empty()).await;
    lab.remove_pod(&pod).await;
    assert_eq!(std::fs::read_dir(lab.dir.path().join("root/containers")).unwrap().count(), 0);
}

/// Each has descriptors of the server's and a mount, and may never be started.
#[tokio::test]
async fn only_so_many_are_prepared_and_the_others_start_all_the_same() {
    let lab = lab!();
    let pod = lab.pod("many").await;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let most = (limit / 8 / 15).min(250) as usize;
    let mut ids = Vec::new();
    for number in 0..most + 3 {
        ids.push(lab.create(&pod, shell(&format!("c{number}"), "exec sleep 1000")).await.unwrap());
    }
    let count = || {
        let all = cgroups();
        ids.iter().filter(|id| all.contains(*id)).count()
    };
    until(|| count() >= most).await;
    assert_eq!(count(), most, "and no more");
    let last = ids.last().unwrap();
    lab.start(last).await.unwrap();
    assert_eq!(lab.sh(last, "echo alive").await, "alive\n");
    lab.remove_pod(&pod).await;
}

/// Names of all cgroups.
fn cgroups() -> std::collections::HashSet<String> {
    let found = std::process::Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-printf", "%f\\n"])
        .output()
        .unwrap();
    String::from_utf8(found.stdout).unwrap().lines().map(str::to_owned).collect()
}
