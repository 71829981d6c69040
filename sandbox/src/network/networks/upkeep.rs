//! Periodic work while pods run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crisp_executor::ids::PodId;
use tokio::task::spawn_blocking;

use super::Networks;
use crate::network::NetworkError;

/// Pause between two tries to detach pods whose plugins failed.
const LEFTOVERS: Duration = Duration::from_secs(300);

/// The times of the last work. Begins with the start of the server.
#[derive(Debug)]
pub struct LastUpkeep {
    leftovers: Instant,
    check: Instant,
}

impl Default for LastUpkeep {
    fn default() -> Self {
        Self { leftovers: Instant::now(), check: Instant::now() }
    }
}

impl Networks {
    /// Restores bridge and packet rules of the built-in network if another program removed them, checks that
    /// CNI plugins can serve a pod, and, less often, detaches the rest of removed pods and has plugins check
    /// the others.
    pub async fn keep_up(&self, last: &mut LastUpkeep) {
        for network in self.0.builtins.all().iter().filter(|network| !network.pods().is_empty()) {
            self.0.dns.ensure(network).await;
        }
        let inner = Arc::clone(&self.0);
        let kept = spawn_blocking(move || {
            // The response is kept, so that Status need not wait for the plugins.
            if let Ok(Some(network)) = inner.in_force() {
                let _ = inner.cni.status(&network);
            }
            for network in inner.builtins.all() {
                if let Err(error) = network.keep_up() {
                    tracing::warn!(network = network.name(), %error, "a built-in network is not what it should be");
                }
            }
        });
        // It has no result.
        let _ = kept.await;
        if last.leftovers.elapsed() > LEFTOVERS {
            let left = self.0.cni.leftovers().into_iter().map(|(pod, _)| pod).collect();
            // Logged when the pod was given up; the status shows whether it is gone now.
            let _ = self.give_back(left).await;
            last.leftovers = Instant::now();
        }
        if self.0.check_interval.is_some_and(|interval| last.check.elapsed() > interval) {
            self.check_all().await;
            last.check = Instant::now();
        }
    }

    /// One pod after another: it is not urgent, and plugins cost CPU time.
    async fn check_all(&self) {
        for pod in self.0.cni.pods() {
            if let Err(error) = self.check(&pod).await {
                tracing::warn!(pod = pod.short(), %error, "a pod's network is not what it was given; making the pod anew mends it");
            }
        }
    }

    /// The plugins of the pod's networks check that they are intact.
    ///
    /// # Errors
    /// The error of a plugin.
    pub async fn check(&self, pod: &PodId) -> Result<(), NetworkError> {
        let _lock = self.0.locks.lock(pod.clone(), "check").await;
        self.0.cni.check(pod).await
    }
}
