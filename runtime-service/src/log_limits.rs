//! Keeps the logs of running containers small where no kubelet does it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crisp_executor::ids::ContainerId;

use crate::container::Container;
use crate::ops::{log_reopen, log_rotate};
use crate::service_state::ServiceState;

/// Interval of the checks.
const TICK: Duration = Duration::from_secs(1);
/// Time until the next try for a log that could not be rotated.
const AGAIN: Duration = Duration::from_secs(60);
/// An annotation of all containers that kubelets make. They rotate their logs, by their own settings.
const OF_KUBELET: &str = "io.kubernetes.container.hash";

/// When logs are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Size in bytes.
    pub size: u64,
    /// Files that are kept of each log, with the present one; 2 or more.
    pub files: u32,
}

/// Rotates logs until the service ends.
pub(crate) fn keep(service: &Arc<ServiceState>) {
    let service = Arc::downgrade(service);
    tokio::spawn(async move {
        let mut failed = HashMap::new();
        loop {
            tokio::time::sleep(TICK).await;
            if !check(&service, &mut failed).await {
                return;
            }
        }
    });
}

/// Returns false when the service has ended.
async fn check(service: &Weak<ServiceState>, failed: &mut HashMap<ContainerId, Instant>) -> bool {
    let Some(service) = service.upgrade() else { return false };
    let Some(limits) = service.live_config().log_limits else { return true };
    let containers = service.containers.all();
    failed.retain(|id, _| containers.iter().any(|container| container.id() == id));
    for container in containers.iter().filter(|container| container.status().state.pid().is_some()) {
        let done = match failed.get(container.id()) {
            Some(since) if since.elapsed() < AGAIN => continue,
            // The container may still write to the renamed file.
            Some(_) => log_reopen::reopen(&service, container).await,
            None if is_due(container, limits.size) => {
                log_rotate::rotate(&service, container, limits.files).await
            }
            None => continue,
        };
        match done {
            Ok(()) => drop(failed.remove(container.id())),
            Err(error) => {
                tracing::warn!(container = %container.id(), %error, "a log that is too large cannot be rotated");
                failed.insert(container.id().clone(), Instant::now());
            }
        }
    }
    true
}

fn is_due(container: &Container, size: u64) -> bool {
    let metadata = &container.metadata;
    let Some(log) = &metadata.log_path else { return false };
    !metadata.config.annotations.contains_key(OF_KUBELET)
        && log_rotate::size_in_cache(log).is_some_and(|now| now >= size)
}
