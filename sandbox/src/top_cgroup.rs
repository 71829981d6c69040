//! The parent cgroup of all pods whose client names none. It exists while there are such pods, and for a
//! moment longer: with ten v1 hierarchies, removing and making it again costs as much as the cgroup of a pod.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crisp_executor::cgroup::{CgroupError, CgroupPath, Cgroups};
use crisp_executor::ids::PodId;
use tokio::task::spawn_blocking;

/// Delay between the end of a pod and the check for others.
const IDLE: Duration = Duration::from_secs(1);

/// Its path.
pub(crate) const PATH: &str = "/crisp";

/// `/crisp/<pod>`.
pub(crate) fn parent_of(pod: &PodId) -> CgroupPath {
    #[expect(clippy::expect_used, reason = "an id is 64 hexadecimal digits, always a valid component")]
    CgroupPath::parse(&format!("{PATH}/{pod}")).expect("valid by construction")
}

/// Removes the cgroup when no pod needs it.
#[derive(Debug, Default)]
pub(crate) struct TopCgroup {
    /// Whether a task will remove it.
    queued: Arc<AtomicBool>,
}

impl TopCgroup {
    /// Removes it later, in the background. Needs a tokio runtime.
    pub(crate) fn remove_later(&self, cgroups: &Cgroups) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let (queued, cgroups) = (self.queued.clone(), cgroups.clone());
        tokio::runtime::Handle::current().spawn(async move {
            tokio::time::sleep(IDLE).await;
            // Before the check: a pod that ends after it starts another task.
            queued.store(false, Ordering::Release);
            remove(cgroups).await;
        });
    }

    /// Removes it at once.
    pub(crate) async fn remove(&self, cgroups: &Cgroups) {
        remove(cgroups.clone()).await;
    }
}

async fn remove(cgroups: Cgroups) {
    if let Ok(Err(error)) = spawn_blocking(move || remove_unless_used(&cgroups, PATH)).await {
        tracing::warn!(%error, "cannot remove the cgroup above the pods");
    }
}

/// Returns false when there are pods in it, of this server or of another.
fn remove_unless_used(cgroups: &Cgroups, path: &str) -> Result<bool, CgroupError> {
    cgroups.remove_if_empty(&CgroupPath::parse(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_while_a_pod_is_in_it() {
        crisp_skip::needs!();
        let cgroups = Cgroups::detect().unwrap();
        let path = format!("/crisp-top-{}", std::process::id());
        let pod = cgroups.create(&CgroupPath::parse(&format!("{path}/pod")).unwrap()).unwrap();
        assert!(!remove_unless_used(&cgroups, &path).unwrap());
        pod.remove().unwrap();
        assert!(remove_unless_used(&cgroups, &path).unwrap());
        assert!(remove_unless_used(&cgroups, &path).unwrap(), "one that is gone");
    }
}
