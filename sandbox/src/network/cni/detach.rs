use crisp_executor::id::PodId;
use serde_json::{Value, json};

use super::attach::{INTERFACE, passes_result_on, plugin_config};
use super::config::Version;
use super::exec::Verb;
use super::{Cni, namespace};
use crate::network::NetworkError;

impl Cni {
    /// Runs DEL of every plugin in reverse order, all of them even if one fails, and forgets the pod when
    /// none failed.
    pub(in crate::network) async fn detach(&self, pod: &PodId) -> Result<(), NetworkError> {
        let Some(record) = self.known().get(pod).cloned() else { return Ok(()) };
        let previous = record.result.as_ref().filter(|_| passes_result_on(&record.network));
        let mut failure = None;
        for plugin in record.network.plugins.iter().rev() {
            if let Err(error) = self.call(&record, plugin, Verb::Del, previous).await {
                tracing::warn!(pod = pod.short(), %error, "a part of the pod's network is not taken away yet");
                failure = failure.or(Some(error));
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        namespace::withdraw(&record.netns)?;
        self.forget(pod)
    }

    /// Lets the plugins of the network in force free what no pod of this server uses (verb GC, from 1.1.0
    /// on). The plugins then free the addresses of every other runtime on this network too: only for a
    /// server that has it alone, which only the operator can know.
    pub(in crate::network) async fn collect(&self) -> Result<(), NetworkError> {
        let Some(Ok(network)) = self.current() else { return Ok(()) };
        if !self.gc || network.version < Version::V1_1_0 || network.disable_gc {
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
