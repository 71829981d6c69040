//! A disk that refuses, or hangs.

use std::path::PathBuf;
use std::time::Duration;

use crisp_proto::runtime::v1 as proto;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use tonic::Request;

use crate::lab::{Lab, lab, shell};
use crate::{ONE_AT_A_TIME, until};

/// The file that is written before it becomes status.json. A folder in its place stands for a disk that
/// refuses, a pipe for one that hangs.
fn beside_status(lab: &Lab, id: &str) -> PathBuf {
    lab.dir.path().join("root/containers").join(id).join("status.json.new")
}

fn state_on_disk(lab: &Lab, id: &str) -> String {
    let path = beside_status(lab, id).with_extension("");
    let status: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    status["state"]["state"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_exit_is_known_at_once_although_its_record_cannot_be_written() {
    let _one = ONE_AT_A_TIME.lock().await;
    let lab = lab!();
    let pod = lab.pod("full").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    until(|| state_on_disk(&lab, &id) == "running").await;
    std::fs::create_dir(beside_status(&lab, &id)).unwrap();
    let begun = std::time::Instant::now();
    lab.stop(&id, 0).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(lab.exited(&id).await.exit_code, 137);
    assert_eq!(state_on_disk(&lab, &id), "running");
    std::fs::remove_dir(beside_status(&lab, &id)).unwrap();
    until(|| state_on_disk(&lab, &id) == "exited").await;
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_start_succeeds_although_no_disk_takes_its_record_yet() {
    let _one = ONE_AT_A_TIME.lock().await;
    let lab = lab!();
    let pod = lab.pod("later").await;
    let id = lab.create(&pod, shell("app", "sleep 1000")).await.unwrap();
    std::fs::create_dir(beside_status(&lab, &id)).unwrap();
    lab.start(&id).await.unwrap();
    assert_eq!(lab.status(&id).await.unwrap().state, proto::ContainerState::ContainerRunning as i32);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(state_on_disk(&lab, &id), "created");
    std::fs::remove_dir(beside_status(&lab, &id)).unwrap();
    until(|| state_on_disk(&lab, &id) == "running").await;
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_full_disk_does_not_keep_a_container_from_being_removed() {
    let _one = ONE_AT_A_TIME.lock().await;
    let lab = lab!();
    let pod = lab.pod("remove").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    until(|| state_on_disk(&lab, &id) == "running").await;
    std::fs::create_dir(beside_status(&lab, &id)).unwrap();
    lab.remove(&id).await.unwrap();
    assert!(lab.status(&id).await.is_err());
    until(|| std::fs::read_dir(lab.dir.path().join("root/discarded")).unwrap().count() == 0).await;
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn lists_and_statuses_do_not_wait_for_a_disk_that_hangs() {
    let _one = ONE_AT_A_TIME.lock().await;
    let lab = lab!();
    let pod = lab.pod("hang").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    until(|| state_on_disk(&lab, &id) == "running").await;
    let pipe = beside_status(&lab, &id);
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let updating = {
        let (service, id) = (lab.service.clone(), id.clone());
        let linux = proto::LinuxContainerResources { cpu_shares: 77, ..Default::default() };
        let request = proto::UpdateContainerResourcesRequest {
            container_id: id,
            linux: Some(linux),
            ..Default::default()
        };
        tokio::spawn(async move { service.update_container_resources(Request::new(request)).await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!updating.is_finished(), "the write does not hang");
    let look = async {
        lab.status(&id).await.unwrap();
        lab.service.list_containers(Request::new(Default::default())).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(1), look).await.unwrap();
    // A reader lets the write go on.
    let reader = rustix::fs::open(&pipe, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
    updating.await.unwrap().unwrap();
    drop(reader);
    lab.remove_pod(&pod).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_and_statuses_of_pods_do_not_wait_for_a_disk_that_hangs() {
    let _one = ONE_AT_A_TIME.lock().await;
    let lab = lab!();
    let pod = lab.pod("pod-hangs").await;
    let pipe = lab.dir.path().join("root/pods").join(&pod).join("pod.json.new");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let updating = {
        let overhead = Some(proto::LinuxContainerResources { cpu_shares: 77, ..Default::default() });
        let request = proto::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: pod.clone(),
            overhead,
            resources: None,
        };
        let service = lab.service.clone();
        tokio::spawn(async move { service.update_pod_sandbox_resources(Request::new(request)).await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!updating.is_finished(), "the write does not hang");
    let (service, id) = (lab.service.clone(), pod.clone());
    // In a task of its own: what waits for a lock would keep the timer from ending it.
    let look = tokio::spawn(async move {
        let listed = service.list_pod_sandbox(Request::new(Default::default())).await.unwrap().into_inner();
        assert_eq!(listed.items.len(), 1);
        let request = proto::PodSandboxStatusRequest { pod_sandbox_id: id, verbose: true };
        service.pod_sandbox_status(Request::new(request)).await.unwrap();
    });
    let looked = tokio::time::timeout(Duration::from_secs(1), look).await;
    // A reader lets the write go on, also where the test fails.
    let reader = rustix::fs::open(&pipe, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
    looked.unwrap().unwrap();
    updating.await.unwrap().unwrap();
    drop(reader);
    lab.remove_pod(&pod).await;
}
