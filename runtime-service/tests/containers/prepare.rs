//! The parts of a start that are prepared after the response to CreateContainer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crisp_proto::runtime::v1 as proto;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use tonic::Request;

use crate::lab::{Lab, lab, resources, shell};
use crate::restart::while_no_server_runs;

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
    // The last of what is prepared.
    until(|| log_of(lab, name).exists()).await;
    id
}

fn log_of(lab: &Lab, name: &str) -> PathBuf {
    lab.logs().join(format!("{name}.log"))
}

fn folder_of(lab: &Lab, id: &str) -> PathBuf {
    lab.dir.path().join("root/containers").join(id)
}

/// The container's descriptors of the files in its folder, its cgroup and its log.
fn descriptors(id: &str, log: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = all.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    // A deleted one has another end.
    let is_log = |target: &str| target.starts_with(&*log.to_string_lossy());
    targets
        .filter(|target| is_log(&target.to_string_lossy()) || target.to_string_lossy().contains(id))
        .collect()
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
    let spec = std::fs::read_to_string(folder_of(&lab, &id).join("bundle/config.json")).unwrap();
    assert!(spec.contains(&format!("\"limit\":{}", 2 * MEMORY)), "{spec}");
    lab.until_log("app", "it runs").await;
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_log_that_is_moved_or_deleted_before_the_start_is_made_again() {
    let lab = lab!();
    let pod = lab.pod("logs").await;
    let moved = prepared(&lab, &pod, "moved").await;
    let old = lab.logs().join("old");
    std::fs::rename(log_of(&lab, "moved"), &old).unwrap();
    let deleted = prepared(&lab, &pod, "deleted").await;
    std::fs::remove_file(log_of(&lab, "deleted")).unwrap();
    for (id, name) in [(moved, "moved"), (deleted, "deleted")] {
        lab.start(&id).await.unwrap();
        lab.until_log(name, "it runs").await;
    }
    assert_eq!(std::fs::read_to_string(&old).unwrap(), "");
    lab.remove_pod(&pod).await;
}

/// Where each file is, with its mode, owner and size.
fn tree(folder: &Path) -> std::collections::BTreeSet<(PathBuf, u32, u32, u64)> {
    use std::os::unix::fs::MetadataExt;
    let mut all = std::collections::BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let (path, file) = entry.map(|entry| (entry.path(), entry.metadata().unwrap())).unwrap();
            let size = if file.is_dir() { 0 } else { file.len() };
            all.insert((path.strip_prefix(folder).unwrap().to_owned(), file.mode(), file.uid(), size));
            if file.is_dir() {
                folders.push(path);
            }
        }
    }
    all
}

async fn changes(lab: &Lab, id: &str) -> usize {
    use crisp_proto::crisp::v1::ListChangesRequest;
    use crisp_proto::crisp::v1::containers_server::Containers as _;
    use tokio_stream::StreamExt as _;
    let request = ListChangesRequest { container_id: id.to_owned() };
    let pieces = lab.service.changes(Request::new(request)).await.unwrap().into_inner();
    let pieces: Vec<_> = pieces.collect().await;
    pieces.into_iter().map(|piece| piece.unwrap().changes.len()).sum()
}

/// The files that a start finds are those that it would make.
#[tokio::test]
async fn mount_points_are_made_before_the_start_and_are_no_changes() {
    let lab = lab!();
    let pod = lab.pod("mount-points").await;
    let id = prepared(&lab, &pod, "app").await;
    let upper = folder_of(&lab, &id).join("upper");
    let before = tree(&upper);
    for (path, is_file) in [("proc", false), ("sys", false), ("dev", false), ("etc/hosts", true)] {
        assert_eq!(upper.join(path).is_file(), is_file, "{before:?}");
        assert!(upper.join(path).exists(), "{path}: {before:?}");
    }
    assert_eq!(changes(&lab, &id).await, 0);
    lab.start(&id).await.unwrap();
    lab.until_log("app", "it runs").await;
    assert_eq!(tree(&upper), before);
    assert_eq!(changes(&lab, &id).await, 0);
    let mut config = shell("etc", "cat /etc/mine; sleep 1000");
    let volume = lab.dir.path().join("etc");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("mine"), "of the volume\n").unwrap();
    config.mounts = vec![proto::Mount {
        container_path: "/etc".into(),
        host_path: volume.to_string_lossy().into_owned(),
        ..Default::default()
    }];
    let id = lab.create(&pod, config).await.unwrap();
    let upper = folder_of(&lab, &id).join("upper");
    until(|| upper.join("proc").exists() && !cgroups_of(&id).is_empty()).await;
    lab.start(&id).await.unwrap();
    lab.until_log("etc", "of the volume").await;
    assert!(!upper.join("etc/hosts").exists(), "made below a volume");
    assert_eq!(changes(&lab, &id).await, 0);
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
    let logs =
        [&removed, &left].map(|id| (id.clone(), log_of(&lab, if id == &left { "left" } else { "removed" })));
    assert!(logs.iter().all(|(id, log)| !descriptors(id, log).is_empty()));
    lab.remove(&removed).await.unwrap();
    assert_eq!(cgroups_of(&removed), Vec::<PathBuf>::new());
    let stop = proto::StopPodSandboxRequest { pod_sandbox_id: pod.clone() };
    lab.service.stop_pod_sandbox(Request::new(stop)).await.unwrap();
    until(|| cgroups_of(&left).is_empty()).await;
    lab.remove_pod(&pod).await;
    for (id, log) in &logs {
        // Those of its files that are being deleted too.
        until(|| descriptors(id, log).is_empty()).await;
    }
    assert_eq!(std::fs::read_dir(lab.dir.path().join("root/containers")).unwrap().count(), 0);
}

/// Two attempts of a client may have one path: the log, empty so far, is not deleted with the first one.
#[tokio::test]
async fn a_log_that_another_container_writes_to_stays() {
    let lab = lab!();
    let pod = lab.pod("shared").await;
    let never = prepared(&lab, &pod, "app").await;
    let mut config = shell("app", "while ! [ -e /go ]; do sleep 0.05; done; echo said; exec sleep 1000");
    config.metadata.as_mut().unwrap().attempt = 1;
    let runs = lab.create(&pod, config).await.unwrap();
    lab.start(&runs).await.unwrap();
    lab.remove(&never).await.unwrap();
    // Deleted in the background, after which its log would be.
    let discarded = lab.dir.path().join("root/discarded");
    until(|| std::fs::read_dir(&discarded).map_or(true, |mut left| left.next().is_none())).await;
    lab.sh(&runs, "touch /go").await;
    until(|| lab.log("app").contains("said")).await;
    lab.remove_pod(&pod).await;
}

/// Each has descriptors of the server's and a mount, and may never be started.
#[tokio::test]
async fn only_so_many_are_prepared_and_the_others_start_all_the_same() {
    let lab = lab!();
    let pod = lab.pod("many").await;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let most = (limit / 8 / 21).min(250) as usize;
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
    assert!(folder_of(&lab, last).join("bundle/config.json").exists(), "each has a bundle when it runs");
    lab.remove_pod(&pod).await;
}

/// The next server knows nothing of what was prepared.
#[test]
fn what_a_server_that_was_killed_has_prepared_is_removed_or_started_by_the_next_one() {
    while_no_server_runs(
        async |lab| {
            let pod = lab.pod("killed").await;
            let (started, removed) =
                (prepared(lab, &pod, "started").await, prepared(lab, &pod, "removed").await);
            // As if it had ended before that.
            std::fs::remove_dir_all(folder_of(lab, &started).join("bundle")).unwrap();
            std::fs::remove_dir_all(folder_of(lab, &started).join("work")).unwrap();
            (pod, started, removed)
        },
        |(_, started, _)| {
            // Nor do these have CPUs yet.
            let all = cgroups_of(started).into_iter();
            all.filter(|folder| folder.join("cpuset.cpu_exclusive").exists()).for_each(|cpuset| {
                std::fs::remove_dir(&cpuset).unwrap();
                std::fs::create_dir(&cpuset).unwrap();
            });
        },
        async |lab, (pod, started, removed)| {
            lab.start(&started).await.unwrap();
            lab.until_log("started", "it runs").await;
            assert!(folder_of(lab, &started).join("bundle/config.json").exists());
            lab.remove(&removed).await.unwrap();
            assert_eq!(cgroups_of(&removed), Vec::<PathBuf>::new());
            lab.remove_pod(&pod).await;
        },
    );
}

/// Names of all cgroups.
fn cgroups() -> std::collections::HashSet<String> {
    let found = std::process::Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-printf", "%f\\n"])
        .output()
        .unwrap();
    String::from_utf8(found.stdout).unwrap().lines().map(str::to_owned).collect()
}
