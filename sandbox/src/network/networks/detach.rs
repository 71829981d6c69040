use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crisp_executor::ids::PodId;
use crisp_operation::{KeyedGuard, of_this_operation};
use tokio::task::{JoinSet, spawn_blocking};

use super::attach::BuiltinWork;
use super::{Inner, Networks};
use crate::network::NetworkError;
use crate::network::builtin::Builtin;
use crate::network::cni::Detached;

/// Time for the kernel and the disk, in addition to plugins.
const MARGIN: Duration = Duration::from_secs(30);
/// Longest wait of a request for a try of the server that is under way; the pod is then left to that try.
const WAIT_FOR_RETRY: Duration = Duration::from_millis(300);

impl Networks {
    /// Detaches the pod from its networks, only from the records; succeeds for a pod without one. If a CNI
    /// plugin fails repeatedly, the pod finally counts as detached: the rest is tried again periodically, and
    /// [`Self::status`] names it.
    ///
    /// On the built-in network the pod is cut off and its ports are free when this returns; its interface is
    /// deleted within some tenths of a second, together with others, and its address is released after that.
    /// [`Self::close_if_unused`] waits for that.
    ///
    /// # Errors
    /// Something could not be removed; the call can be repeated.
    pub async fn detach(&self, pod: &PodId) -> Result<(), NetworkError> {
        self.try_detach(pod, true).await.map(|_| ())
    }

    async fn try_detach(&self, pod: &PodId, asked_again: bool) -> Result<Detached, NetworkError> {
        let (inner, pod) = (Arc::clone(&self.0), pod.clone());
        let task = async move {
            let Some(_lock) = inner.lock_for_detach(&pod).await else { return Ok(Detached::Left) };
            Inner::detach(&inner, pod, asked_again).await
        };
        let task = tokio::spawn(of_this_operation(task));
        task.await.unwrap_or(Err(NetworkError::Interrupted("detach")))
    }

    /// Time limit for [`Self::detach`]: larger than the sum of the limits of its plugins.
    #[must_use]
    pub fn time_of_detach(&self, pod: &PodId) -> Duration {
        MARGIN + self.0.cni.time_of_detach(pod)
    }

    /// The pods that have a network record.
    #[must_use]
    pub fn recorded(&self) -> Vec<PodId> {
        let built_in = self.0.builtins.all().into_iter().flat_map(|network| network.pods());
        let all: BTreeSet<PodId> = built_in.chain(self.0.cni.pods()).chain(self.0.cni.lost()).collect();
        all.into_iter().collect()
    }

    /// Detaches recorded pods that are no more, and returns them. Then the plugins free resources without a pod. Those
    /// that a plugin fails to detach are not among them: these are tried again by [`Self::retry_plugins`].
    ///
    /// # Errors
    /// The first failure, after all were tried.
    pub async fn collect(&self, stale: Vec<PodId>) -> Result<Vec<PodId>, NetworkError> {
        let given_up: BTreeSet<PodId> = self.0.cni.leftovers().into_iter().map(|(pod, _)| pod).collect();
        let given_back =
            self.give_back(stale.into_iter().filter(|pod| !given_up.contains(pod)).collect()).await;
        // Left over by a server that was killed just after a detach.
        for network in self.0.builtins.all() {
            spawn_blocking(move || network.reap_all());
        }
        let collected = self.0.cni.collect().await;
        given_back.and_then(|gone| collected.map(|()| gone))
    }

    /// Detaches these pods; returns those that are completely detached.
    ///
    /// # Errors
    /// The first failure, after all were tried.
    pub async fn give_back(&self, pods: Vec<PodId>) -> Result<Vec<PodId>, NetworkError> {
        let (mut gone, mut failure) = (Vec::new(), None);
        // In parallel: one that hangs does not delay the others.
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
    /// Takes the pod's lock. Returns None for a pod that was given up and is being tried now, or was given up
    /// while this waited: nothing waits for its plugins.
    async fn lock_for_detach(&self, pod: &PodId) -> Option<KeyedGuard> {
        let is_left_over = || self.cni.is_given_up(pod) && self.builtins.of_pod(pod).is_empty();
        if is_left_over() {
            return self.locks.lock_within(pod.clone(), "detach", WAIT_FOR_RETRY).await.ok();
        }
        let lock = self.locks.lock(pod.clone(), "detach").await;
        (!is_left_over()).then_some(lock)
    }

    async fn detach(self: &Arc<Self>, pod: PodId, asked_again: bool) -> Result<Detached, NetworkError> {
        let detached = self.leave_all(&pod, asked_again, BuiltinWork::OnOwnThread).await?;
        // Remaining rules may still forward packets for its ports.
        if detached == Detached::Gone {
            self.ports.release(&pod);
        }
        Ok(detached)
    }

    pub(super) async fn leave_all(
        &self,
        pod: &PodId,
        asked_again: bool,
        builtin: BuiltinWork,
    ) -> Result<Detached, NetworkError> {
        let mut detached = self.cni.detach(pod, asked_again).await;
        // Also when a plugin has failed.
        for network in self.builtins.of_pod(pod) {
            let left = leave(network, pod, builtin).await;
            detached = detached.and_then(|detached| left.map(|()| detached));
        }
        detached
    }
}

/// Removes the pod from one built-in network.
pub(super) async fn leave(
    network: Arc<Builtin>,
    pod: &PodId,
    builtin: BuiltinWork,
) -> Result<(), NetworkError> {
    let (leaving, gone) = (Arc::clone(&network), pod.clone());
    let left = builtin.run(move || leaving.detach(&gone)).await;
    // In the background: the pod is cut off already.
    spawn_blocking(move || network.reap_all());
    left
}
