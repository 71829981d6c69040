//! Events of pods and containers, which clients may wait for longer than for the response to what they asked.

use std::time::Duration;

use crisp_proto::runtime::v1 as proto;
use crisp_proto::runtime::v1::ContainerEventType as Kind;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use tokio_stream::StreamExt as _;
use tonic::Request;

use rustix::process::{Signal, kill_process};

use crate::lab::{Lab, lab, shell};
use crate::pod_states::{beside_status, started_without_a_record};
use crate::restart::over_a_restart;

/// The events that GetContainerEvents has sent.
struct PodEvents {
    seen: tokio::sync::watch::Receiver<Vec<proto::ContainerEventResponse>>,
}

impl PodEvents {
    async fn follow(lab: &Lab) -> Self {
        let request = Request::new(proto::GetEventsRequest {});
        let mut events = lab.service.get_container_events(request).await.unwrap().into_inner();
        let (sender, seen) = tokio::sync::watch::channel(Vec::new());
        tokio::spawn(async move {
            while let Some(Ok(event)) = events.next().await {
                sender.send_modify(|seen| seen.push(event));
            }
        });
        Self { seen }
    }

    /// The events of one pod, or of one container.
    fn all(&self, id: &str) -> Vec<proto::ContainerEventResponse> {
        self.seen.borrow().iter().filter(|event| event.container_id == id).cloned().collect()
    }

    fn of(&self, id: &str) -> Vec<Kind> {
        self.all(id).iter().map(proto::ContainerEventResponse::container_event_type).collect()
    }

    /// The kinds seen of the pod or container, a while after there are as many as are expected.
    async fn are(&mut self, pod: &str, expected: &[Kind]) {
        let count = |seen: &Vec<proto::ContainerEventResponse>| {
            seen.iter().filter(|event| event.container_id == pod).count()
        };
        let wait = self.seen.wait_for(|seen| count(seen) >= expected.len());
        let waited = tokio::time::timeout(Duration::from_secs(10), wait).await.is_ok();
        assert!(waited, "only {:?} came", self.of(pod));
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(self.of(pod), expected);
    }
}

const MADE: [Kind; 2] = [Kind::ContainerCreatedEvent, Kind::ContainerStartedEvent];
const STOPPED: [Kind; 3] = [MADE[0], MADE[1], Kind::ContainerStoppedEvent];
const REMOVED: [Kind; 4] = [MADE[0], MADE[1], STOPPED[2], Kind::ContainerDeletedEvent];

fn stop(pod: &str) -> Request<proto::StopPodSandboxRequest> {
    Request::new(proto::StopPodSandboxRequest { pod_sandbox_id: pod.to_owned() })
}

fn remove(pod: &str) -> Request<proto::RemovePodSandboxRequest> {
    Request::new(proto::RemovePodSandboxRequest { pod_sandbox_id: pod.to_owned() })
}

#[tokio::test]
async fn equal_requests_at_once_send_each_event_of_a_pod_once() {
    let lab = lab!();
    let mut events = PodEvents::follow(&lab).await;
    let config = lab.pod_config("joined");
    let (one, two) = tokio::join!(lab.run_pod(config.clone()), lab.run_pod(config.clone()));
    let pod = one.unwrap();
    assert_eq!(pod, two.unwrap());
    assert_eq!(lab.run_pod(config).await.unwrap(), pod, "made already");
    events.are(&pod, &MADE).await;
    let (one, two) =
        tokio::join!(lab.service.stop_pod_sandbox(stop(&pod)), lab.service.stop_pod_sandbox(stop(&pod)));
    one.unwrap();
    two.unwrap();
    events.are(&pod, &STOPPED).await;
    let (one, two) = tokio::join!(
        lab.service.remove_pod_sandbox(remove(&pod)),
        lab.service.remove_pod_sandbox(remove(&pod))
    );
    one.unwrap();
    two.unwrap();
    events.are(&pod, &REMOVED).await;
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_client_that_goes_away_costs_no_event_of_a_pod_and_leaves_nothing_half_done() {
    let lab = lab!();
    let mut events = PodEvents::follow(&lab).await;
    // Polled once, and dropped.
    let soon = Duration::from_millis(1);
    let _ = tokio::time::timeout(soon, lab.run_pod(lab.pod_config("left"))).await;
    let pod = loop {
        let request = Request::new(proto::ListPodSandboxRequest { filter: None });
        let pods = lab.service.list_pod_sandbox(request).await.unwrap().into_inner().items;
        match pods.first() {
            Some(pod) => break pod.id.clone(),
            None => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    };
    events.are(&pod, &MADE).await;
    let deaf = lab.run(&pod, shell("app", "trap '' TERM; while :; do sleep 1; done")).await;
    let _ = tokio::time::timeout(soon, lab.service.stop_pod_sandbox(stop(&pod))).await;
    events.are(&pod, &STOPPED).await;
    assert_eq!(lab.exited(&deaf).await.exit_code, 137);
    let _ = tokio::time::timeout(soon, lab.service.remove_pod_sandbox(remove(&pod))).await;
    events.are(&pod, &REMOVED).await;
    assert!(lab.status(&deaf).await.is_err(), "its containers are removed with it");
    lab.remove_pod(&pod).await;
}

/// The state of the container in the event, and the exit code.
fn container_in(event: &proto::ContainerEventResponse) -> Option<(proto::ContainerState, i32)> {
    let statuses = &event.containers_statuses;
    statuses.iter().find(|c| c.id == event.container_id).map(|c| (c.state(), c.exit_code))
}

#[tokio::test]
async fn each_event_has_the_statuses_that_its_change_leaves() {
    let lab = lab!();
    let mut events = PodEvents::follow(&lab).await;
    let pod = lab.pod("statuses").await;
    let waits = lab.create(&pod, shell("waits", "true")).await.unwrap();
    // It ends as soon as it is started: the events are about one moment each all the same.
    let short = lab.run(&pod, shell("short", "exit 3")).await;
    events.are(&short, &STOPPED).await;
    lab.remove(&short).await.unwrap();
    events.are(&short, &REMOVED).await;
    lab.remove_pod(&pod).await;
    events.are(&waits, &[MADE[0], REMOVED[3]]).await;
    events.are(&pod, &REMOVED).await;

    let [created, started, stopped, deleted] = &events.all(&short)[..] else { panic!("not four events") };
    assert_eq!(container_in(created), Some((proto::ContainerState::ContainerCreated, 0)));
    // An exit may come before the response to the start.
    let begun = container_in(started).unwrap();
    assert!(begun.0 == proto::ContainerState::ContainerRunning || begun.1 == 3, "{begun:?}");
    assert_eq!(container_in(stopped), Some((proto::ContainerState::ContainerExited, 3)));
    assert_eq!(container_in(deleted), None);
    assert!(deleted.containers_statuses.iter().any(|c| c.id == waits), "{deleted:?}");
    let states: Vec<_> = events.all(&pod).iter().map(|e| e.pod_sandbox_status.clone().unwrap()).collect();
    let ready = states.iter().map(|status| status.state() == proto::PodSandboxState::SandboxReady);
    assert_eq!(ready.collect::<Vec<_>>(), [true, true, false, false]);
    assert!(states.iter().all(|status| status.metadata.as_ref().unwrap().uid == "statuses-uid"));
    let times: Vec<i64> = events.seen.borrow().iter().map(|event| event.created_at).collect();
    assert!(times.is_sorted(), "{times:?}");
}

#[test]
fn a_start_that_no_record_tells_sends_its_event_when_the_monitor_answers() {
    over_a_restart(
        async |lab| started_without_a_record(lab).await,
        async |lab, (pod, id, monitor, child)| {
            std::fs::remove_dir(beside_status(lab, &id)).unwrap();
            let mut events = PodEvents::follow(lab).await;
            kill_process(monitor, Signal::CONT).unwrap();
            events.are(&id, &MADE[1..]).await;
            let running = Some((proto::ContainerState::ContainerRunning, 0));
            assert_eq!(container_in(&events.all(&id)[0]), running);
            kill_process(child, Signal::KILL).unwrap();
            events.are(&id, &STOPPED[1..]).await;
            lab.remove_pod(&pod).await;
        },
    );
}

#[test]
fn a_container_that_ends_before_its_silent_monitor_answers_sends_both_events() {
    over_a_restart(
        async |lab| started_without_a_record(lab).await,
        async |lab, (pod, id, monitor, child)| {
            std::fs::remove_dir(beside_status(lab, &id)).unwrap();
            let mut events = PodEvents::follow(lab).await;
            kill_process(child, Signal::KILL).unwrap();
            kill_process(monitor, Signal::CONT).unwrap();
            events.are(&id, &STOPPED[1..]).await;
            let ended = Some((proto::ContainerState::ContainerExited, 137));
            assert_eq!(container_in(&events.all(&id)[1]), ended);
            lab.remove_pod(&pod).await;
        },
    );
}

#[tokio::test]
async fn a_pod_whose_monitor_dies_sends_that_it_has_stopped() {
    let lab = lab!();
    let mut events = PodEvents::follow(&lab).await;
    let pod = lab.pod("lost").await;
    kill_process(lab.monitor_pid(&pod).await, Signal::KILL).unwrap();
    events.are(&pod, &STOPPED).await;
    lab.remove_pod(&pod).await;
}

/// To a kubelet both are one pod, and the last event is how that is.
#[tokio::test]
async fn the_event_of_a_stopped_pod_comes_before_those_of_the_pod_that_replaces_it() {
    let lab = lab!();
    let mut events = PodEvents::follow(&lab).await;
    let old = lab.pod("replaced").await;
    lab.service.stop_pod_sandbox(stop(&old)).await.unwrap();
    let mut config = lab.pod_config("replaced");
    config.metadata.as_mut().unwrap().attempt = 1;
    let new = lab.run_pod(config).await.unwrap();
    events.are(&new, &MADE).await;
    events.are(&old, &STOPPED).await;
    let last = events.seen.borrow().last().map(|event| event.container_id.clone());
    assert_eq!(last.as_ref(), Some(&new));
    lab.remove_pod(&old).await;
    lab.remove_pod(&new).await;
}
