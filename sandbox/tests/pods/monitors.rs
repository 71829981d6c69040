//! Monitors that end, hang, or lose the first process of a shared PID namespace.

use std::time::{Duration, Instant};

use crisp_sandbox::{PidMode, PodConfig, PodEvent, PodState};
use rustix::process::Signal;

use crate::lab::{Lab, config, ended, monitor_pid, signal, until};

#[tokio::test]
async fn a_monitor_that_is_killed_makes_its_pod_lost() {
    crisp_skip::needs!();
    let lab = Lab::new().await;
    let pod = lab.pod(config(lab.folder.path(), "lost")).await;
    let mut events = lab.pods.events();
    signal(monitor_pid(&pod), Signal::KILL);
    until(&pod, |state| *state == PodState::Lost).await;
    assert!(matches!(events.recv().await, Ok(PodEvent::Lost(lost)) if lost.id == pod.id));
    assert!(pod.link().is_err());
    assert!(pod.status().monitor_pid.is_none());
    lab.clear().await;
}

#[tokio::test]
async fn a_stop_kills_a_monitor_that_hangs() {
    crisp_skip::needs!();
    let lab = Lab::new().await;
    let pod = lab.pod(config(lab.folder.path(), "silent")).await;
    let monitor = monitor_pid(&pod);
    signal(monitor, Signal::STOP);
    lab.pods.stop(&pod.id).await.unwrap();
    ended(monitor).await;
    assert_eq!(pod.status().state, PodState::Stopped);
    lab.clear().await;
}

#[tokio::test]
async fn the_end_of_a_shared_pid_namespace_makes_its_pod_degraded_for_good() {
    crisp_skip::needs!();
    let lab = Lab::new().await;
    let shared = PodConfig { pid: PidMode::Pod, ..config(lab.folder.path(), "shared") };
    let pod = lab.pod(shared).await;
    let init = pod.link().unwrap().report().await.unwrap().init.unwrap();
    signal(init, Signal::KILL);
    until(&pod, |state| matches!(state, PodState::Degraded { .. })).await;
    let refusal = pod.ready_link().err().unwrap().to_string();
    assert!(refusal.contains("first process of its shared PID namespace ended"), "{refusal}");
    assert!(pod.link().is_ok(), "containers of other PID namespaces can be stopped in order");
    // A server that starts finds it so, whether or not the one before it wrote that down.
    let lab = Lab::open(lab.folder.clone()).await;
    let pod = lab.pods.get(&pod.id).unwrap();
    until(&pod, |state| matches!(state, PodState::Degraded { .. })).await;
    lab.clear().await;
}

#[tokio::test]
async fn a_server_that_was_away_sees_that_a_shared_pid_namespace_ended() {
    crisp_skip::needs!();
    let lab = Lab::new().await;
    let shared = PodConfig { pid: PidMode::Pod, ..config(lab.folder.path(), "shared") };
    let (folder, request) = (lab.folder.clone(), shared);
    let away = folder.clone();
    let (id, init) = tokio::task::spawn_blocking(move || {
        crate::lab::as_server(async {
            let lab = Lab::open(away).await;
            let pod = lab.pod(request).await;
            (pod.id.clone(), pod.link().unwrap().report().await.unwrap().init.unwrap())
        })
    })
    .await
    .unwrap();
    signal(init, Signal::KILL);
    ended(init).await;
    let lab = Lab::open(folder).await;
    let pod = lab.pods.get(&id).unwrap();
    until(&pod, |state| matches!(state, PodState::Degraded { .. })).await;
    lab.clear().await;
}

#[tokio::test]
async fn lists_and_states_are_answered_while_a_record_cannot_be_written() {
    crisp_skip::needs!();
    let lab = Lab::new().await;
    let pod = lab.pod(config(lab.folder.path(), "full")).await;
    // A folder in the place of the temporary file stands for a disk that refuses.
    let beside = lab.root(&pod.id).join("pod.json.new");
    std::fs::create_dir(&beside).unwrap();
    signal(monitor_pid(&pod), Signal::KILL);
    until(&pod, |state| *state == PodState::Lost).await;
    let begun = Instant::now();
    assert_eq!(lab.pods.list()[0].status().state, PodState::Lost);
    let record = || std::fs::read_to_string(lab.root(&pod.id).join("pod.json")).unwrap();
    assert!(record().contains("\"ready\""));
    std::fs::remove_dir(&beside).unwrap();
    while !record().contains("\"lost\"") {
        assert!(begun.elapsed() < Duration::from_secs(30), "the record is never written: {}", record());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    lab.clear().await;
}
