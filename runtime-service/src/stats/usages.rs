//! Counts the writable layers of all containers of a request on one thread.
//!
//! A request waits a moment when a container has no count at all; otherwise it returns the latest count,
//! whose timestamp tells its age.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};

use super::writable::Usage;
use crate::container::Container;

/// Time limit for first counts.
const FIRST_COUNT: Duration = Duration::from_millis(50);

/// The latest count of each container. None when it is not counted yet.
pub async fn usages(containers: &[Arc<Container>]) -> Vec<Option<Usage>> {
    let (counted, new): (Vec<_>, Vec<_>) =
        stale(containers).partition(|container| container.meters.writable.latest().is_some());
    renew(counted);
    if let Some(first_counts) = renew(new) {
        tokio::time::timeout(FIRST_COUNT, first_counts).await.ok();
    }
    containers.iter().map(|container| container.meters.writable.latest()).collect()
}

/// Like [`usages`], without waiting for first counts.
pub fn latest(containers: &[Arc<Container>]) -> Vec<Option<Usage>> {
    renew(stale(containers).collect());
    containers.iter().map(|container| container.meters.writable.latest()).collect()
}

fn stale(containers: &[Arc<Container>]) -> impl Iterator<Item = Arc<Container>> {
    containers.iter().filter(|container| container.meters.writable.claim()).cloned()
}

/// Counts in the background.
fn renew(containers: Vec<Arc<Container>>) -> Option<JoinHandle<()>> {
    if containers.is_empty() {
        return None;
    }
    Some(spawn_blocking(move || {
        containers.iter().for_each(|one| one.meters.writable.renew(&one.folder.upper()));
    }))
}
