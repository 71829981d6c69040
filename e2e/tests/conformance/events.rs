//! GetContainerEvents, which a kubelet with the gate EventedPLEG follows.

use std::time::Duration;

use crisp_e2e::Result;
use k8s_cri::v1::{
    ContainerEventResponse, ContainerEventType, ContainerState, GetEventsRequest, PodSandboxState,
};
use tonic::Streaming;

use crate::cri::Cri;

promises! {
    a_containers_life_is_four_events: Kubernetes, ["GetContainerEvents", "ContainerEventResponse.container_id",
        "ContainerEventResponse.container_event_type", "ContainerEventResponse.created_at"],
        "A container's events are created, started, stopped and deleted, in this order and at rising times";
    an_event_has_the_status_of_the_pod: Kubernetes, ["ContainerEventResponse.pod_sandbox_status",
        "ContainerEventResponse.containers_statuses"],
        "An event has the pod's status and its containers' as they are then, with the exit code of one that stopped";
    a_status_is_not_older_than_its_event: Kubernetes, ["GetContainerEvents"],
        "After an event a container's status and the lists have at least what the event says";
    a_pod_has_events_too: Kubernetes, ["GetContainerEvents"],
        "A pod sandbox has events under its own id when it starts and is stopped and removed";
    events_go_to_every_client: Cri, ["GetContainerEvents"],
        "Two clients that follow the events both get each of them";
}

async fn follow(cri: &mut Cri) -> Result<Streaming<ContainerEventResponse>> {
    let mut client = cri.client.runtime.clone();
    // A server may send its response together with the first event.
    let call = tokio::spawn(async move { client.get_container_events(GetEventsRequest {}).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let pod = cri.pod().await?;
    cri.remove_pod(&pod.id).await?;
    Ok(call.await??.into_inner())
}

/// Returns the next event with this id.
async fn next(events: &mut Streaming<ContainerEventResponse>, id: &str) -> Result<ContainerEventResponse> {
    let wait = async {
        loop {
            let event = events.message().await?.ok_or("the events have ended")?;
            if event.container_id == id {
                return Ok(event);
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await?
}

async fn a_containers_life_is_four_events(cri: &mut Cri) -> Result<()> {
    let mut events = follow(cri).await?;
    let (_pod, id) = cri.running().await?;
    cri.stop(&id, 0).await?;
    cri.remove_container(&id).await?;
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(next(&mut events, &id).await?);
    }
    let types: Vec<_> = seen.iter().map(ContainerEventResponse::container_event_type).collect();
    let expected = [
        ContainerEventType::ContainerCreatedEvent,
        ContainerEventType::ContainerStartedEvent,
        ContainerEventType::ContainerStoppedEvent,
        ContainerEventType::ContainerDeletedEvent,
    ];
    assert_eq!(types, expected);
    assert!(seen[0].created_at > 0 && seen.is_sorted_by_key(|event| event.created_at));
    Ok(())
}

async fn an_event_has_the_status_of_the_pod(cri: &mut Cri) -> Result<()> {
    let mut events = follow(cri).await?;
    let config = cri.shell("exit 7");
    let (pod, id) = cri.running_as(&config).await?;
    loop {
        let event = next(&mut events, &id).await?;
        let status = event.pod_sandbox_status.clone().ok_or("no pod in the event")?;
        assert_eq!((&status.id, status.state()), (&pod.id, PodSandboxState::SandboxReady));
        if event.container_event_type() == ContainerEventType::ContainerStoppedEvent {
            let own = event.containers_statuses.iter().find(|status| status.id == id);
            let own = own.ok_or("the container is not in the event")?;
            assert_eq!((own.state(), own.exit_code), (ContainerState::ContainerExited, 7));
            return Ok(());
        }
    }
}

async fn a_status_is_not_older_than_its_event(cri: &mut Cri) -> Result<()> {
    let mut events = follow(cri).await?;
    for _ in 0..5 {
        let config = cri.shell("true");
        let (_pod, id) = cri.running_as(&config).await?;
        while next(&mut events, &id).await?.container_event_type()
            != ContainerEventType::ContainerStoppedEvent
        {}
        assert_eq!(cri.state(&id).await?, ContainerState::ContainerExited);
    }
    Ok(())
}

async fn a_pod_has_events_too(cri: &mut Cri) -> Result<()> {
    let mut events = follow(cri).await?;
    let pod = cri.pod().await?;
    cri.stop_pod(&pod.id).await?;
    cri.remove_pod(&pod.id).await?;
    let mut seen = Vec::new();
    while seen.last() != Some(&ContainerEventType::ContainerDeletedEvent) {
        seen.push(next(&mut events, &pod.id).await?.container_event_type());
    }
    for expected in [ContainerEventType::ContainerStartedEvent, ContainerEventType::ContainerStoppedEvent] {
        assert!(seen.contains(&expected), "{seen:?}");
    }
    Ok(())
}

async fn events_go_to_every_client(cri: &mut Cri) -> Result<()> {
    let mut first = follow(cri).await?;
    let mut second = follow(cri).await?;
    let (_pod, id) = cri.running().await?;
    for events in [&mut first, &mut second] {
        let types = [
            next(events, &id).await?.container_event_type(),
            next(events, &id).await?.container_event_type(),
        ];
        let expected = [ContainerEventType::ContainerCreatedEvent, ContainerEventType::ContainerStartedEvent];
        assert_eq!(types, expected);
    }
    Ok(())
}
