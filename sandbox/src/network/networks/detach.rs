use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crisp_executor::ids::PodId;
use crisp_operation::of_this_operation;
use tokio::task::{JoinSet, spawn_blocking};

use super::{Inner, Networks};
use crate::network::NetworkError;
use crate::network::builtin::Builtin;
use crate::network::cni::Detached;

/// For the kernel and the disk, beside what plugins may need.
const MARGIN: Duration = Duration::from_secs(30);

impl Networks {
    /// Takes the pod's networks away, from the records alone; a pod without one is fine. A pod of which a CNI
    /// plugin fails to take away its part again and again counts as detached at last: that part is tried
    /// again from time to time, and [`Self::status`] names it.
    ///
    /// On the built-in network the pod is cut off and its ports are free when this returns; its interface
    /// is deleted within some tenths of a second, together with those of others, and only then is its
    /// address given back. [`Self::close_if_unused`] waits for that.
    ///
    /// # Errors
    /// What could not be taken away; calling again tries again.
    pub async fn detach(&self, pod: &PodId) -> Result<(), NetworkError> {
        self.try_detach(pod, true).await.map(|_| ())
    }

    async fn try_detach(&self, pod: &PodId, asked_again: bool) -> Result<Detached, NetworkError> {
        let (inner, pod) = (Arc::clone(&self.0), pod.clone());
        let task = async move {
            let _lock = inner.locks.lock(pod.clone(), "detach").await;
            Inner::detach(&inner, pod, asked_again).await
        };
        let task = tokio::spawn(of_this_operation(task));
        task.await.unwrap_or(Err(NetworkError::Interrupted("detach")))
    }

    /// A deadline for [`Self::detach`]: above the sum of those of the plugins that it calls.
    #[must_use]
    pub fn time_of_detach(&self, pod: &PodId) -> Duration {
        MARGIN + self.0.cni.time_of_detach(pod)
    }

    /// The pods that have something of a network.
    #[must_use]
    pub fn recorded(&self) -> Vec<PodId> {
        let built_in = self.0.builtins.all().into_iter().flat_map(|network| network.pods());
        let all: BTreeSet<PodId> = built_in.chain(self.0.cni.pods()).chain(self.0.cni.lost()).collect();
        all.into_iter().collect()
    }

    /// Detaches every recorded pod that is not in `live`; returns those that were. Then the plugins free what
    /// belongs to no pod: no pod may be attached meanwhile.
    ///
    /// # Errors
    /// The first failure, after all were tried.
    pub async fn gc(&self, live: &[PodId]) -> Result<Vec<PodId>, NetworkError> {
        let stale = self.recorded().into_iter().filter(|pod| !live.contains(pod)).collect();
        let given_back = self.give_back(stale).await;
        // Left over by a server that was killed just after a detach.
        for network in self.0.builtins.all() {
            spawn_blocking(move || network.reap_all());
        }
        let collected = self.0.cni.collect().await;
        given_back.and_then(|gone| collected.map(|()| gone))
    }

    /// Detaches these pods; returns those of which nothing is left.
    ///
    /// # Errors
    /// The first failure, after all were tried.
    pub async fn give_back(&self, pods: Vec<PodId>) -> Result<Vec<PodId>, NetworkError> {
        let (mut gone, mut failure) = (Vec::new(), None);
        // All at once: one that hangs costs its own deadline, not that of the others.
        let mut tasks = JoinSet::new();
        for pod in pods {
            let networks = self.clone();
            tasks
                .spawn(async move { networks.try_detach(&pod, false).await.map(|detached| (pod, detached)) });
        }
        while let Some(detached) = tasks.join_next().await {
            match detached.unwrap_or(Err(NetworkError::Interrupted("detach"))) {
                Ok((pod, Detached::Gone)) => gone.push(pod),
                Ok((_, Detached::Left)) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(gone), Err)
    }
}

impl Inner {
    async fn detach(self: &Arc<Self>, pod: PodId, asked_again: bool) -> Result<Detached, NetworkError> {
        let detached = self.leave_all(&pod, asked_again).await?;
        // What is left may still lead packets for its ports to where the pod was.
        if detached == Detached::Gone {
            self.ports.release(&pod);
        }
        Ok(detached)
    }

    pub(super) async fn leave_all(&self, pod: &PodId, asked_again: bool) -> Result<Detached, NetworkError> {
        let mut detached = self.cni.detach(pod, asked_again).await;
        // Also when a plugin has failed.
        for network in self.builtins.of_pod(pod) {
            let left = leave(network, pod).await;
            detached = detached.and_then(|detached| left.map(|()| detached));
        }
        detached
    }
}

/// Takes the pod off one built-in network.
pub(super) async fn leave(network: Arc<Builtin>, pod: &PodId) -> Result<(), NetworkError> {
    let (leaving, gone) = (Arc::clone(&network), pod.clone());
    let left = spawn_blocking(move || leaving.detach(&gone)).await;
    // In the background: the pod is off the network already.
    spawn_blocking(move || network.reap_all());
    left.unwrap_or(Err(NetworkError::Interrupted("detach")))
}
