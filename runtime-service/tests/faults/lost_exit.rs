//! Exits whose events do not come once: lost, although the link to the monitor lives (the next signal finds them), or
//! twice.

use std::time::{Duration, Instant};

use crisp_operation::fault::{Fault, arm};
use crisp_proto::crisp::v1::KillContainerRequest;
use crisp_proto::crisp::v1::containers_server::Containers as _;
use crisp_proto::runtime::v1 as proto;
use tonic::{Code, Request};

use crate::lab::{Lab, lab, shell};
use crate::{ONE_AT_A_TIME, reached};

/// A container that has exited with code 3, which the server does not know.
async fn run_and_lose_its_exit(lab: &Lab, pod: &str, name: &str) -> String {
    let id = lab.create(pod, shell(name, "exit 3")).await.unwrap();
    let lost = arm(&format!("follow_pod/exit@{id}"), Fault::Fail);
    lab.start(&id).await.unwrap();
    reached(&lost).await;
    assert_eq!(lab.status(&id).await.unwrap().state, proto::ContainerState::ContainerRunning as i32);
    id
}

#[tokio::test]
async fn a_stop_notes_an_exit_whose_event_was_lost() {
    let _one = ONE_AT_A_TIME.lock().await;
    let lab = lab!();
    let pod = lab.pod("stopped").await;
    let id = run_and_lose_its_exit(&lab, &pod, "app").await;
    let begun = Instant::now();
    lab.stop(&id, 30).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let status = lab.status(&id).await.unwrap();
    assert_eq!(status.state, proto::ContainerState::ContainerExited as i32);
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_kill_notes_an_exit_whose_event_was_lost() {
    let _one = ONE_AT_A_TIME.lock().await;
    let lab = lab!();
    let pod = lab.pod("killed").await;
    let id = run_and_lose_its_exit(&lab, &pod, "app").await;
    let request = KillContainerRequest { container_id: id.clone(), signal: "TERM".to_owned() };
    let refused = lab.service.kill(Request::new(request)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("has exited"), "{refused}");
    let status = lab.status(&id).await.unwrap();
    assert_eq!(status.state, proto::ContainerState::ContainerExited as i32);
    assert_eq!(status.exit_code, 3);
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn an_exit_that_is_reported_twice_is_cleaned_up_once() {
    let _one = ONE_AT_A_TIME.lock().await;
    let lab = lab!();
    let pod = lab.pod("twice").await;
    let id = lab.create(&pod, shell("app", "exit 3")).await.unwrap();
    let twice = arm(&format!("follow_pod/second_exit@{id}"), Fault::Fail);
    lab.start(&id).await.unwrap();
    reached(&twice).await;
    assert_eq!(lab.exited(&id).await.exit_code, 3);
    // The removal waits for none of them; the end of the pod waits for its tasks.
    lab.remove(&id).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let text = lab.metrics.text();
    let ends = text.lines().filter(|line| line.contains("clean_up_exit") && line.contains("_count"));
    let ends: Vec<&str> = ends.filter(|line| line.contains("stage=\"cgroup\"")).collect();
    assert!(ends.len() == 1 && ends[0].ends_with(" 1"), "{ends:?}");
    lab.remove_pod(&pod).await;
}
