//! Detaches a pod from its networks: DEL.

use std::path::Path;
use std::sync::PoisonError;
use std::time::Instant;

use crisp_executor::ids::PodId;
use serde_json::Map;
use tokio::task::spawn_blocking;

use super::call::passes_result_on;
use super::config::Plugin;
use super::exec::Verb;
use super::record::{CniRecord, Joined};
use super::strays::wait_for_strays;
use super::{Cni, namespace};
use crate::network::{INTERFACE, NetworkError};

/// After this many failures of DEL the pod is no longer blocked by it: its client repeats the request each
/// time.
const TRIES: u32 = 3;

/// Whether a process is in the namespace.
async fn has_processes(netns: &Path) -> bool {
    let netns = netns.to_owned();
    // If it panics, nothing is known: an address must not be freed then.
    spawn_blocking(move || namespace::has_processes(&netns)).await.unwrap_or(true)
}

/// The result of a detach.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::network) enum Detached {
    /// Nothing is left.
    Gone,
    /// A plugin has failed repeatedly: something may be left, and is tried again periodically.
    Left,
}

impl Cni {
    /// Runs DEL of every plugin in reverse order, all of them even if one fails, and forgets the pod when
    /// none failed. A pod whose record cannot be used is detached from the network in force. `asked_again`:
    /// the pod has a client that repeats the request after a failure.
    pub(in crate::network) async fn detach(
        &self,
        pod: &PodId,
        asked_again: bool,
    ) -> Result<Detached, NetworkError> {
        if self.inherited.lock().unwrap_or_else(PoisonError::into_inner).remove(pod) {
            wait_for_strays(pod, self.deadline).await;
        }
        let Some(record) = self.records().get(pod).cloned() else {
            return self.detach_lost(pod).await.map(|()| Detached::Gone);
        };
        let leftover = match self.delete_all(&record).await {
            Ok(leftover) => leftover,
            Err(error) if asked_again && self.left.failed(pod, error.to_string()) < TRIES => {
                return Err(error);
            }
            // A pod that has joined it still has the interface with the address, which no other pod must get. That
            // cannot be known of a namespace that an earlier release, or a person, has unmounted.
            Err(error) if has_processes(&record.netns).await => return Ok(self.give_up(pod, &error)),
            Err(error) => match self.delete_without_namespace(&record).await {
                Ok(leftover) => leftover,
                Err(_) => return Ok(self.give_up(pod, &error)),
            },
        };
        if let Err(error) = namespace::withdraw(&record.netns) {
            // A pod that waits no more is tried again after a pause, as after a failure of a plugin.
            return if asked_again { Err(error) } else { Ok(self.give_up(pod, &error)) };
        }
        self.left.forget(pod);
        match leftover {
            None => self.forget(pod)?,
            Some(missing) => {
                self.records.set_aside(pod, &missing.to_string());
                self.records().remove(pod);
            }
        }
        Ok(Detached::Gone)
    }

    /// Keeps the record of the remaining resources.
    fn give_up(&self, pod: &PodId, error: &NetworkError) -> Detached {
        if self.left.give_up(pod, error.to_string(), Instant::now()) {
            tracing::error!(pod = pod.short(), %error, "what the network has of a pod may be left; the pod does not wait for it any longer, and it is tried again from time to time");
        }
        Detached::Left
    }

    /// The last resort. Plugins that were killed halfway, or have already succeeded, may fail on missing
    /// things; without a namespace and a result they only free what they keep. The interfaces end with the
    /// namespace.
    async fn delete_without_namespace(
        &self,
        record: &CniRecord,
    ) -> Result<Option<NetworkError>, NetworkError> {
        namespace::withdraw(&record.netns)?;
        let mut record = record.clone();
        record.joined_mut().for_each(|joined| joined.result = None);
        self.delete_all(&record).await
    }

    /// Runs every DEL; returns the error of a plugin that no longer exists, if there is one.
    async fn delete_all(&self, record: &CniRecord) -> Result<Option<NetworkError>, NetworkError> {
        let (mut failure, mut leftover) = (None, None);
        for joined in record.joined().rev() {
            match self.delete(record, joined).await {
                Ok(missing) => {
                    self.cache.forget(record, joined);
                    leftover = leftover.or(missing);
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(leftover), Err)
    }

    /// The same for one network.
    async fn delete(
        &self,
        record: &CniRecord,
        joined: &Joined,
    ) -> Result<Option<NetworkError>, NetworkError> {
        let previous = joined.result.as_ref().filter(|_| passes_result_on(&joined.network));
        let (mut failure, mut leftover) = (None, None);
        for plugin in joined.network.plugins.iter().rev() {
            let Err(error) = self.call(record, joined, plugin, Verb::Del, previous).await else { continue };
            if matches!(error, NetworkError::CniMissing { .. }) && self.is_out_of_use(plugin) {
                leftover = leftover.or(Some(error));
                continue;
            }
            tracing::warn!(pod = record.pod.short(), %error, "a part of the pod's network is not taken away yet");
            failure = failure.or(Some(error));
        }
        failure.map_or(Ok(leftover), Err)
    }

    /// A plugin that the network in force does not use either will not be installed again: after a change of
    /// its network, a node must not keep its old pods forever.
    fn is_out_of_use(&self, plugin: &Plugin) -> bool {
        let uses = |other: &Plugin| other.kind == plugin.kind;
        self.current().is_ok_and(|network| !network.is_some_and(|network| network.plugins.iter().any(uses)))
    }

    /// DEL with all known data of a pod whose record cannot be used: plugins keep a pod's resources by its
    /// id.
    async fn detach_lost(&self, pod: &PodId) -> Result<(), NetworkError> {
        if !self.lost().contains(pod) {
            return Ok(());
        }
        let netns = namespace::path(pod);
        let Some(network) = self.current()? else { return namespace::withdraw(&netns) };
        let joined = Joined {
            args: format!("IgnoreUnknown=1;K8S_POD_INFRA_CONTAINER_ID={pod}"),
            interface: INTERFACE.to_owned(),
            network: (*network).clone(),
            capabilities: Map::new(),
            cni_args: Map::new(),
            result: None,
            attachment: None,
        };
        let record = CniRecord {
            pod: pod.clone(),
            name: String::new(),
            namespace: String::new(),
            netns,
            ports: Vec::new(),
            first: joined,
            more: Vec::new(),
        };
        let deleted = self.delete_all(&record).await;
        namespace::withdraw(&record.netns)?;
        match deleted {
            Ok(None) => {
                self.records.remove_lost(pod)?;
                self.lost.lock().unwrap_or_else(PoisonError::into_inner).remove(pod);
            }
            Ok(Some(error)) | Err(error) => {
                tracing::error!(pod = pod.short(), %error, "what the network has of a pod with an unusable record may be left; the next start of the server tries again");
            }
        }
        Ok(())
    }
}
