//! GetContainerEvents: what happens from now on, each with the pod as it is when told.

use std::sync::Arc;

use crisp_proto::runtime::v1::{ContainerEventResponse, ContainerEventType, GetEventsRequest};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::messages::MessageStream;
use super::{Reply, ServiceState};
use crate::convert::response;
use crate::events::{Event, Kind};

/// Answers that may wait for a slow reader beside the backlog of events itself.
const AHEAD: usize = 16;

pub(super) fn call(
    service: &Arc<ServiceState>,
    _request: GetEventsRequest,
) -> Reply<MessageStream<ContainerEventResponse>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let service = service.clone();
    let mut events = service.events.subscribe();
    tokio::spawn(async move {
        loop {
            let answer = tokio::select! {
                event = events.recv() => event,
                () = sender.closed() => return,
            };
            let answer = match answer {
                Ok(event) => Ok(response(&service, event)),
                Err(RecvError::Closed) => return,
                // Kubelet connects anew and lists everything.
                Err(RecvError::Lagged(missed)) => {
                    Err(Status::data_loss(format!("the reader was too slow: {missed} events are lost")))
                }
            };
            let last = answer.is_err();
            if sender.send(answer).await.is_err() || last {
                return;
            }
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

fn response(service: &ServiceState, event: Event) -> ContainerEventResponse {
    let kind = match event.kind {
        Kind::Created => ContainerEventType::ContainerCreatedEvent,
        Kind::Started => ContainerEventType::ContainerStartedEvent,
        Kind::Stopped => ContainerEventType::ContainerStoppedEvent,
        Kind::Deleted => ContainerEventType::ContainerDeletedEvent,
    };
    ContainerEventResponse {
        container_id: event.id,
        container_event_type: kind.into(),
        created_at: event.at,
        pod_sandbox_status: service.pods.get(&event.pod).map(|pod| response::pod_status(&pod)),
        containers_statuses: response::container_statuses(&service.containers.of_pod(&event.pod)),
    }
}
