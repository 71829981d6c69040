//! Events of pods, which clients may wait for longer than for the response to what they asked.

use std::time::Duration;

use crisp_proto::runtime::v1 as proto;
use crisp_proto::runtime::v1::ContainerEventType as Kind;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use tokio_stream::StreamExt as _;
use tonic::Request;

use crate::lab::{Lab, lab, shell};

/// What GetContainerEvents has sent of one pod.
struct PodEvents {
    seen: tokio::sync::watch::Receiver<Vec<(String, Kind)>>,
}

impl PodEvents {
    async fn follow(lab: &Lab) -> Self {
        let request = Request::new(proto::GetEventsRequest {});
        let mut events = lab.service.get_container_events(request).await.unwrap().into_inner();
        let (sender, seen) = tokio::sync::watch::channel(Vec::new());
        tokio::spawn(async move {
            while let Some(Ok(event)) = events.next().await {
                let kind = event.container_event_type();
                sender.send_modify(|seen| seen.push((event.container_id, kind)));
            }
        });
        Self { seen }
    }

    fn of(&self, pod: &str) -> Vec<Kind> {
        self.seen.borrow().iter().filter(|(id, _)| id == pod).map(|(_, kind)| *kind).collect()
    }

    /// The kinds seen of the pod, a while after there are as many as are expected.
    async fn are(&mut self, pod: &str, expected: &[Kind]) {
        let count = |seen: &Vec<(String, Kind)>| seen.iter().filter(|(id, _)| id == pod).count();
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
