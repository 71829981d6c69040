//! Waits for a container's end.

use std::time::Duration;

use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use crisp_proto::runtime::v1::{ContainerState, ContainerStatus, ContainerStatusRequest, GetEventsRequest};
use crisp_runtime_service::RuntimeService;
use tokio::sync::watch;
use tokio_stream::StreamExt as _;
use tonic::{Code, Request};

use crate::rpc_error::refused;

/// Events wake the wait; in case one is lost, the status is also read at this interval.
const POLL: Duration = Duration::from_millis(500);

/// Wakes on each event of any container.
pub struct Waiter {
    happened: watch::Receiver<u64>,
}

impl Waiter {
    /// Receives the runtime's events from now on.
    pub async fn start(runtime: &RuntimeService) -> Self {
        let (count, happened) = watch::channel(0);
        if let Ok(stream) = runtime.get_container_events(Request::new(GetEventsRequest {})).await {
            let mut stream = stream.into_inner();
            tokio::spawn(async move {
                loop {
                    tokio::select! {
                        event = stream.next() => match event {
                            Some(Ok(_)) => count.send_modify(|n| *n += 1),
                            // Kept open, so that waits fall back to polling instead of spinning.
                            _ => break count.closed().await,
                        },
                        // Nothing waits for a pod that has ended.
                        () = count.closed() => break,
                    }
                }
            });
        } else {
            tokio::spawn(async move { count.closed().await });
        }
        Self { happened }
    }

    /// Waits until the container has ended, and returns its last state; None if it was removed.
    ///
    /// # Errors
    /// The runtime's error.
    pub async fn ended(&self, runtime: &RuntimeService, id: &str) -> anyhow::Result<Option<ContainerStatus>> {
        let mut happened = self.happened.clone();
        loop {
            let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
            let status = match runtime.container_status(Request::new(request)).await {
                Ok(reply) => reply.into_inner().status.unwrap_or_default(),
                Err(status) if status.code() == Code::NotFound => return Ok(None),
                Err(status) => return Err(refused(status)),
            };
            if status.state() == ContainerState::ContainerExited {
                return Ok(Some(status));
            }
            let _ = tokio::time::timeout(POLL, happened.changed()).await;
        }
    }
}
