//! Taking a pod off its network: DEL; and GC of what no pod has.

use std::sync::PoisonError;

use crisp_executor::id::PodId;
use serde_json::{Map, Value, json};

use super::attach::{passes_result_on, plugin_config};
use super::config::{Plugin, Version};
use super::exec::Verb;
use super::record::CniRecord;
use super::{Cni, namespace};
use crate::network::{INTERFACE, NetworkError};

impl Cni {
    /// Runs DEL of every plugin in reverse order, all of them even if one fails, and forgets the pod when
    /// none failed. A pod whose record cannot be used is taken off the network in force.
    pub(in crate::network) async fn detach(&self, pod: &PodId) -> Result<(), NetworkError> {
        let Some(record) = self.known().get(pod).cloned() else { return self.detach_lost(pod).await };
        let leftover = self.delete_all(&record).await?;
        namespace::withdraw(&record.netns)?;
        match leftover {
            None => self.forget(pod),
            Some(missing) => {
                self.records.set_aside(pod, &missing.to_string());
                self.known().remove(pod);
                Ok(())
            }
        }
    }

    /// Every DEL; returns the plugin that is gone for good, if one is.
    async fn delete_all(&self, record: &CniRecord) -> Result<Option<NetworkError>, NetworkError> {
        let previous = record.result.as_ref().filter(|_| passes_result_on(&record.network));
        let (mut failure, mut leftover) = (None, None);
        for plugin in record.network.plugins.iter().rev() {
            let Err(error) = self.call(record, plugin, Verb::Del, previous).await else { continue };
            if matches!(error, NetworkError::CniMissing { .. }) && self.is_given_up(plugin) {
                leftover = leftover.or(Some(error));
                continue;
            }
            tracing::warn!(pod = record.pod.short(), %error, "a part of the pod's network is not taken away yet");
            failure = failure.or(Some(error));
        }
        failure.map_or(Ok(leftover), Err)
    }

    /// A plugin that the network in force does not use either will not be installed again: a node that has
    /// changed its network must not keep its old pods for ever.
    fn is_given_up(&self, plugin: &Plugin) -> bool {
        let uses = |other: &Plugin| other.kind == plugin.kind;
        self.current().is_ok_and(|network| !network.is_some_and(|network| network.plugins.iter().any(uses)))
    }

    /// DEL with all that is known of a pod whose record cannot be used: plugins keep what a pod has by its id.
    async fn detach_lost(&self, pod: &PodId) -> Result<(), NetworkError> {
        if !self.lost().contains(pod) {
            return Ok(());
        }
        let netns = namespace::path(pod);
        let Some(network) = self.current()? else { return namespace::withdraw(&netns) };
        let record = CniRecord {
            pod: pod.clone(),
            name: String::new(),
            namespace: String::new(),
            args: format!("IgnoreUnknown=1;K8S_POD_INFRA_CONTAINER_ID={pod}"),
            netns,
            network: (*network).clone(),
            capabilities: Map::new(),
            ports: Vec::new(),
            result: None,
            attachment: None,
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

    /// Lets the plugins of the network in force free what no pod of this server uses (verb GC, from 1.1.0
    /// on). The plugins then free the addresses of every other runtime on this network too: only for a
    /// server that has it alone, which only the operator can know.
    pub(in crate::network) async fn collect(&self) -> Result<(), NetworkError> {
        let Ok(Some(network)) = self.current() else { return Ok(()) };
        if !self.gc || network.version < Version::V1_1_0 || network.disable_gc {
            return Ok(());
        }
        let lost = self.lost();
        if !lost.is_empty() {
            let pods: Vec<&str> = lost.iter().map(PodId::as_str).collect();
            tracing::warn!(
                ?pods,
                "the CNI verb GC is not used: it would free the addresses of pods whose record cannot be used"
            );
            return Ok(());
        }
        let valid: Vec<Value> = {
            let known = self.known();
            let here = known.values().filter(|record| record.network.name == network.name);
            here.map(|record| json!({"containerID": record.pod, "ifname": INTERFACE})).collect()
        };
        for plugin in &network.plugins {
            let mut config = plugin_config(&network, plugin, None, None);
            config["cni.dev/valid-attachments"] = Value::Array(valid.clone());
            self.call_with(&network, plugin, Verb::Gc, &[], &config).await?;
        }
        Ok(())
    }
}
