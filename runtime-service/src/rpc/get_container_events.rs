//! GetContainerEvents: all events from now on, each with the statuses of the pod and its containers after the
//! change.

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

/// Responses that may wait for a slow reader, in addition to the backlog of events.
const AHEAD: usize = 16;

pub(super) fn call(
    service: &Arc<ServiceState>,
    _request: GetEventsRequest,
) -> Reply<MessageStream<ContainerEventResponse>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let mut events = service.events.subscribe();
    let (cut, lost) = (service.events.cut.clone(), service.events.lost.clone());
    tokio::spawn(async move {
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = sender.closed() => return,
            };
            let response = match event {
                Ok(event) => Ok(event_response(event)),
                Err(RecvError::Closed) => return,
                // Kubelet then connects again and lists everything.
                Err(RecvError::Lagged(missed)) => {
                    cut.inc();
                    lost.inc_by(missed);
                    Err(Status::data_loss(format!("the reader was too slow: {missed} events are lost")))
                }
            };
            let last = response.is_err();
            if sender.send(response).await.is_err() || last {
                return;
            }
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

fn event_response(event: Event) -> ContainerEventResponse {
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
        pod_sandbox_status: event.pod.map(|(pod, status)| response::pod_status(&pod, &status)),
        containers_statuses: response::container_statuses(&event.containers),
    }
}
