//! GC: plugins free resources that belong to no pod.

use std::collections::BTreeMap;
use std::sync::Arc;

use crisp_executor::ids::PodId;
use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};

use super::call::plugin_config;
use super::config::{NetworkList, Version};
use super::exec::Verb;
use super::{Cni, strays};
use crate::network::NetworkError;

impl Cni {
    /// Makes the plugins of all networks free everything that no pod of this server uses (verb GC, from 1.1.0
    /// on). The plugins also free the addresses of every other runtime on these networks: only for a server
    /// that uses them alone, which only the operator can know.
    ///
    /// Does nothing while a pod is being attached, whose resources would be freed, and ends when one begins
    /// to be: the next time does the rest.
    pub(in crate::network) async fn collect(&self) -> Result<(), NetworkError> {
        if !self.gc {
            return Ok(());
        }
        self.end_earlier_collecting().await;
        let lost = self.lost();
        if !lost.is_empty() {
            let pods: Vec<&str> = lost.iter().map(PodId::as_str).collect();
            tracing::warn!(
                ?pods,
                "the CNI verb GC is not used: it would free the addresses of pods whose record cannot be used"
            );
            return Ok(());
        }
        self.attaching.while_none(self.collect_all()).await.unwrap_or_else(|| {
            tracing::debug!("the CNI verb GC gave way to a pod that is attached");
            Ok(())
        })
    }

    /// A server that ends does not wait for its plugins.
    pub(super) async fn end_earlier_collecting(&self) {
        if self.gc {
            self.earlier.get_or_init(strays::end_collecting).await;
        }
    }

    /// All networks, even if one of them fails; returns the first failure.
    async fn collect_all(&self) -> Result<(), NetworkError> {
        let mut failure = Ok(());
        for network in self.in_use() {
            failure = failure.and(self.collect_of(&network).await);
        }
        failure
    }

    /// The networks of the configuration folder, and those that only pods have, whose file is gone.
    fn in_use(&self) -> Vec<NetworkList> {
        let mut by_name: BTreeMap<String, NetworkList> = BTreeMap::new();
        let in_force = self.current().ok().flatten().map(Arc::unwrap_or_clone);
        let in_files = self.all().unwrap_or_default();
        let of_pods: Vec<NetworkList> =
            self.records().values().flat_map(|r| r.joined().map(|j| j.network.clone())).collect();
        // With the newest configuration.
        for network in in_force.into_iter().chain(in_files).chain(of_pods) {
            by_name.entry(network.name.clone()).or_insert(network);
        }
        by_name.into_values().collect()
    }

    /// All plugins of a network, even if one of them fails; returns the first failure.
    async fn collect_of(&self, network: &NetworkList) -> Result<(), NetworkError> {
        if network.version < Version::V1_1_0 || network.disable_gc {
            return Ok(());
        }
        let valid = self.attachments_of(network);
        let mut failure = Ok(());
        for plugin in &network.plugins {
            let mut config = plugin_config(network, plugin, None, None);
            config["cni.dev/valid-attachments"] = Value::Array(valid.clone());
            // Plugins that were written before an error in the specification was found read this field.
            config["cni.dev/attachments"] = Value::Array(valid.clone());
            let called = self.call_with(network, plugin, Verb::Gc, &[], &config).await;
            if let Err(error) = called {
                tracing::warn!(%error, "GC of a CNI plugin failed");
                failure = failure.and(Err(error));
            }
        }
        failure
    }

    fn attachments_of(&self, network: &NetworkList) -> Vec<Value> {
        let known = self.records();
        let of_record = known.values().flat_map(|record| record.joined().map(move |joined| (record, joined)));
        of_record
            .filter(|(_, joined)| joined.network.name == network.name)
            .map(|(record, joined)| json!({"containerID": record.pod, "ifname": joined.interface}))
            .collect()
    }
}

/// Excludes the verb GC while pods are attached. A pod never waits for a plugin's GC: it ends it.
#[derive(Debug, Default)]
pub(super) struct Attaching {
    /// The number of pods that are being attached.
    count: watch::Sender<usize>,
    /// Locked while GC runs.
    collecting: Mutex<()>,
}

/// A pod is being attached while this exists.
#[derive(Debug)]
pub(super) struct AttachGuard<'a>(&'a Attaching);

impl Attaching {
    /// Ends a running GC.
    pub(super) async fn begin(&self) -> AttachGuard<'_> {
        self.count.send_modify(|count| *count += 1);
        let guard = AttachGuard(self);
        drop(self.collecting.lock().await);
        guard
    }

    /// Does the work, unless a pod is being attached or begins to be; None then.
    async fn while_none<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let _collecting = self.collecting.lock().await;
        let mut count = self.count.subscribe();
        // The work is dropped before the lock: its plugins are killed.
        tokio::select! {
            biased;
            _ = count.wait_for(|count| *count > 0) => None,
            done = work => Some(done),
        }
    }
}

impl Drop for AttachGuard<'_> {
    fn drop(&mut self) {
        self.0.count.send_modify(|count| *count -= 1);
    }
}
