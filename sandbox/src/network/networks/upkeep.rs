//! Periodic work while pods run.

use std::sync::Arc;
use std::time::Duration;

use crisp_executor::ids::PodId;
use tokio::task::spawn_blocking;

use super::Networks;
use crate::network::NetworkError;

impl Networks {
    /// Restores bridge and packet rules of the built-in networks if another program removed them. Never waits
    /// for a plugin.
    pub async fn keep_up(&self) {
        for network in self.0.builtins.all().iter().filter(|network| !network.pods().is_empty()) {
            self.0.dns.ensure(network).await;
        }
        let inner = Arc::clone(&self.0);
        let kept = spawn_blocking(move || {
            for network in inner.builtins.all() {
                if let Err(error) = network.keep_up() {
                    tracing::warn!(network = network.name(), %error, "a built-in network is not what it should be");
                }
            }
        });
        // It has no result.
        let _ = kept.await;
    }

    /// Asks CNI plugins whether they can serve a pod, and detaches the rest of removed pods whose pause is over.
    /// Takes as long as the plugins.
    pub async fn retry_plugins(&self) {
        let inner = Arc::clone(&self.0);
        // The response is kept, so that Status need not wait for the plugins.
        let asked = spawn_blocking(move || match inner.in_force() {
            Ok(Some(network)) => inner.cni.status(&network).map(drop),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        });
        let _ = asked.await;
        // Logged when the pod was given up; the status shows whether it is gone now.
        let _ = self.give_back(self.0.cni.due_leftovers()).await;
    }

    /// The pause between two checks of all pods; None if there are none.
    pub(crate) fn check_interval(&self) -> Option<Duration> {
        self.0.check_interval
    }

    /// The pause between two searches for networks of pods that are no more.
    pub(crate) fn collect_interval(&self) -> Duration {
        self.0.collect_interval
    }

    /// Plugins check the pods, one after another: it is not urgent, and plugins cost CPU time.
    pub(crate) async fn check_all(&self) {
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
