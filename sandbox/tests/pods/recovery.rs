//! The state that a server finds after another one has ended.

use std::sync::Arc;
use std::time::Duration;

use crisp_executor::cgroup::CgroupPath;
use crisp_executor::ids::PodId;
use crisp_sandbox::{PodConfig, PodError, PodState};
use rustix::process::Signal;

use crate::lab::{
    Folder, Lab, as_server, assert_no_cgroup, config, ended, monitor_pid, remove_cgroups, signal, until,
};

/// A pod of a server that is no more, and its monitor's process id.
async fn left_behind(change: impl FnOnce(&mut PodConfig)) -> (Arc<Folder>, PodId, i32) {
    let folder = Folder::new();
    let mut request = config(folder.path(), "web");
    change(&mut request);
    let before = folder.clone();
    let server = move || {
        as_server(async {
            let lab = Lab::open(before).await;
            let pod = lab.pod(request).await;
            (pod.id.clone(), monitor_pid(&pod))
        })
    };
    let (id, pid) = tokio::task::spawn_blocking(server).await.unwrap();
    (folder, id, pid)
}

#[tokio::test]
async fn a_pod_is_found_again() {
    crisp_skip::needs!();
    let (folder, id, pid) = left_behind(|_| {}).await;
    let lab = Lab::open(folder).await;
    let pod = lab.pods.get(&id).unwrap();
    assert_eq!((pod.status().state.clone(), pod.status().monitor_pid), (PodState::Ready, Some(pid)));
    pod.ready_link().unwrap().report().await.unwrap();
    lab.clear().await;
}

#[tokio::test]
async fn a_monitor_that_answers_late_keeps_its_pod_and_is_reached_again() {
    crisp_skip::needs!();
    let (folder, id, pid) = left_behind(|_| {}).await;
    signal(pid, Signal::STOP);
    let lab = Lab::open(folder).await;
    let pod = lab.pods.get(&id).unwrap();
    let state = pod.status().state.clone();
    assert!(matches!(&state, PodState::Unknown { why } if why.contains("did not respond")), "{state:?}");
    assert!(state.may_run());
    assert!(pod.ready_link().is_err());
    signal(pid, Signal::CONT);
    until(&pod, |state| *state == PodState::Ready).await;
    pod.ready_link().unwrap().report().await.unwrap();
    lab.clear().await;
}

#[tokio::test]
async fn a_silent_monitor_that_turns_out_to_be_dead_makes_its_pod_lost() {
    crisp_skip::needs!();
    let (folder, id, pid) = left_behind(|_| {}).await;
    signal(pid, Signal::STOP);
    let lab = Lab::open(folder).await;
    let pod = lab.pods.get(&id).unwrap();
    signal(pid, Signal::KILL);
    until(&pod, |state| *state == PodState::Lost).await;
    lab.clear().await;
}

#[tokio::test]
async fn a_silent_monitor_can_be_stopped() {
    crisp_skip::needs!();
    let (folder, id, pid) = left_behind(|_| {}).await;
    signal(pid, Signal::STOP);
    let lab = Lab::open(folder).await;
    lab.pods.stop(&id).await.unwrap();
    ended(pid).await;
    lab.clear().await;
}

#[tokio::test]
async fn a_monitor_whose_socket_was_deleted_is_not_taken_for_dead() {
    crisp_skip::needs!();
    let (folder, id, pid) = left_behind(|_| {}).await;
    std::fs::remove_file(folder.path().join("run/pods").join(id.as_str()).join("monitor.sock")).unwrap();
    let lab = Lab::open(folder).await;
    let pod = lab.pods.get(&id).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(matches!(pod.status().state, PodState::Unknown { .. }), "{pod:?}");
    signal(pid, Signal::KILL);
    until(&pod, |state| *state == PodState::Lost).await;
    lab.clear().await;
}

#[tokio::test]
async fn a_record_that_cannot_be_read_costs_a_living_monitor_nothing() {
    crisp_skip::needs!();
    for (damage, name) in [("{\"version\":1,\"na", None), ("newer", Some("web"))] {
        let (folder, id, pid) = left_behind(|_| {}).await;
        let record = folder.path().join("root/pods").join(id.as_str()).join("pod.json");
        let text = std::fs::read_to_string(&record).unwrap();
        let newer = text.replacen("\"version\":1", "\"version\":7", 1);
        std::fs::write(&record, if damage == "newer" { &newer } else { damage }).unwrap();
        let lab = Lab::open(folder).await;
        let pod = lab.pods.get(&id).expect("it is listed");
        let PodState::Degraded { why } = pod.status().state.clone() else { panic!("{pod:?}") };
        assert!(why.contains("pod.json") && why.contains("stop and remove the pod"), "{why}");
        assert_eq!(pod.status().monitor_pid, Some(pid));
        assert!(name.is_none_or(|name| pod.config.name == name), "{pod:?}");
        assert!(pod.ready_link().is_err(), "nothing new starts in it");
        let report = pod.link().unwrap().report().await.unwrap();
        assert!(report.opened, "the monitor can be talked to");
        assert!(lab.root(&id).join("pod.json.bad").exists(), "what was there is kept");
        // The same after one more restart, and it can be taken down.
        let lab = Lab::open(lab.folder.clone()).await;
        let pod = lab.pods.get(&id).unwrap();
        assert!(matches!(pod.status().state, PodState::Degraded { .. }), "{pod:?}");
        lab.pods.remove(&id).await.unwrap();
        ended(pid).await;
        lab.clear().await;
    }
}

#[tokio::test]
async fn a_monitor_without_any_record_is_found() {
    crisp_skip::needs!();
    let (folder, id, pid) = left_behind(|_| {}).await;
    std::fs::remove_dir_all(folder.path().join("root/pods").join(id.as_str())).unwrap();
    let lab = Lab::open(folder).await;
    let pod = lab.pods.get(&id).expect("it is listed");
    assert!(matches!(pod.status().state, PodState::Degraded { .. }), "{pod:?}");
    lab.pods.remove(&id).await.unwrap();
    ended(pid).await;
    lab.clear().await;
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_set_aside_when_nothing_runs() {
    crisp_skip::needs!();
    let (folder, id, pid) = left_behind(|_| {}).await;
    signal(pid, Signal::KILL);
    ended(pid).await;
    let root = folder.path().join("root/pods");
    std::fs::write(root.join(id.as_str()).join("pod.json"), "no").unwrap();
    let lab = Lab::open(folder.clone()).await;
    assert!(lab.pods.list().is_empty());
    let kept = root.join(format!("{id}.bad")).join("pod.json");
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "no");
    assert!(!lab.state(&id).exists());
    // Nothing that is left says where the pod's cgroup was.
    remove_cgroups(folder.path());
}

#[tokio::test]
async fn of_records_that_were_set_aside_the_newest_are_kept() {
    crisp_skip::needs!();
    let lab = Lab::new().await;
    let root = lab.folder.path().join("root/pods");
    let folder = |n: usize| root.join(format!("{}.bad", format!("{n:02}").repeat(32)));
    for n in 0..7 {
        std::thread::sleep(Duration::from_millis(15));
        std::fs::create_dir(folder(n)).unwrap();
        std::fs::write(folder(n).join("pod.json"), "no").unwrap();
    }
    let lab = Lab::open(lab.folder.clone()).await;
    let left: Vec<usize> = (0..7).filter(|n| folder(*n).exists()).collect();
    assert_eq!(left, [2, 3, 4, 5, 6]);
    let things = lab.pods.inventory(&crisp_sandbox::inventory::KnownOwners::default());
    let listed = things.iter().filter(|thing| thing.name.ends_with(".bad")).count();
    assert_eq!(listed, 5, "{things:?}");
}

#[tokio::test]
async fn a_newer_record_of_a_dead_pod_still_says_which_cgroup_to_remove() {
    crisp_skip::needs!();
    let (folder, id, pid) = left_behind(|_| {}).await;
    signal(pid, Signal::KILL);
    ended(pid).await;
    let root = folder.path().join("root/pods");
    let record = root.join(id.as_str()).join("pod.json");
    let newer = std::fs::read_to_string(&record).unwrap().replacen("\"version\":1", "\"version\":7", 1);
    std::fs::write(&record, newer).unwrap();
    let lab = Lab::open(folder.clone()).await;
    assert!(lab.pods.list().is_empty());
    assert!(root.join(format!("{id}.bad")).join("pod.json").exists());
    assert_no_cgroup(folder.path());
}

/// A folder in the place of the record stands for a disk that refuses to read it.
fn refuse_to_read(folder: &std::path::Path, id: &PodId) -> impl FnOnce() + use<> {
    let record = folder.join("root/pods").join(id.as_str()).join("pod.json");
    let kept = record.with_file_name("kept");
    std::fs::rename(&record, &kept).unwrap();
    std::fs::create_dir(&record).unwrap();
    move || {
        std::fs::remove_dir(&record).unwrap();
        std::fs::rename(&kept, &record).unwrap();
    }
}

#[tokio::test]
async fn a_record_that_the_disk_refuses_to_read_keeps_its_pod_and_is_read_again() {
    crisp_skip::needs!();
    let (folder, id, pid) = left_behind(|_| {}).await;
    let give_back = refuse_to_read(folder.path(), &id);
    let server = Lab::open(folder.clone());
    let give_back = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        give_back();
    };
    let (lab, ()) = tokio::join!(server, give_back);
    let pod = lab.pods.get(&id).expect("it is listed");
    assert_eq!((pod.status().state.clone(), pod.status().monitor_pid), (PodState::Ready, Some(pid)));
    assert_eq!((pod.config.name.as_str(), lab.pods.list().len()), ("web", 1));
    pod.ready_link().unwrap().report().await.unwrap();
    lab.clear().await;
}

#[tokio::test]
async fn a_pod_whose_record_the_disk_refuses_for_long_is_listed_and_can_be_removed() {
    crisp_skip::needs!();
    let (folder, id, pid) = left_behind(|_| {}).await;
    let _never = refuse_to_read(folder.path(), &id);
    let lab = Lab::open(folder).await;
    let pod = lab.pods.get(&id).expect("it is listed");
    let PodState::Degraded { why } = pod.status().state.clone() else { panic!("{pod:?}") };
    assert!(why.contains("pod.json") && why.contains("tries on"), "{why}");
    assert!(pod.ready_link().is_err());
    lab.pods.remove(&id).await.unwrap();
    ended(pid).await;
    lab.clear().await;
}

#[tokio::test]
async fn a_parent_without_room_for_cgroups_is_refused_and_a_recorded_one_can_be_removed() {
    crisp_skip::needs!();
    let too_long = CgroupPath::parse(&"/x".repeat(1990)).unwrap();
    let lab = Lab::new().await;
    let config = PodConfig { cgroup_parent: Some(too_long.clone()), ..config(lab.folder.path(), "web") };
    let error = lab.pods.run(config).await.unwrap_err();
    assert!(matches!(&*error, PodError::Invalid(_)), "{error}");
    assert!(error.to_string().starts_with("linux.cgroup_parent: there is no room"), "{error}");
    assert!(lab.pods.list().is_empty());
    lab.assert_empty();
    // As an earlier server has recorded it.
    let (folder, id, pid) = left_behind(|_| {}).await;
    signal(pid, Signal::KILL);
    ended(pid).await;
    remove_cgroups(folder.path());
    let record = folder.path().join("root/pods").join(id.as_str()).join("pod.json");
    let mut value: serde_json::Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    value["config"]["cgroup_parent"] = too_long.as_str().into();
    std::fs::write(&record, value.to_string()).unwrap();
    let lab = Lab::open(folder).await;
    assert_eq!(lab.pods.list().len(), 1);
    lab.clear().await;
}

#[tokio::test]
async fn a_pod_of_an_earlier_boot_is_lost_and_can_be_removed() {
    crisp_skip::needs!();
    let (folder, id, pid) = left_behind(|_| {}).await;
    signal(pid, Signal::KILL);
    ended(pid).await;
    let record = folder.path().join("root/pods").join(id.as_str()).join("pod.json");
    let mut value: serde_json::Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    value["boot_id"] = "another".into();
    std::fs::write(&record, value.to_string()).unwrap();
    std::fs::remove_dir_all(folder.path().join("run")).unwrap();
    let lab = Lab::open(folder).await;
    assert_eq!(lab.pods.get(&id).unwrap().status().state, PodState::Lost);
    lab.clear().await;
}
