//! GC: plugins free resources that belong to no pod.

use crisp_executor::ids::PodId;
use serde_json::{Value, json};

use super::Cni;
use super::call::plugin_config;
use super::config::{NetworkList, Version};
use super::exec::Verb;
use crate::network::NetworkError;

impl Cni {
    /// Makes the plugins of the network in force free everything that no pod of this server uses (verb GC,
    /// from 1.1.0 on). The plugins also free the addresses of every other runtime on this network: only for a
    /// server that uses it alone, which only the operator can know. No pod may be attached meanwhile: its
    /// resources would be freed.
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
        let valid = self.attachments_of(&network);
        for plugin in &network.plugins {
            let mut config = plugin_config(&network, plugin, None, None);
            config["cni.dev/valid-attachments"] = Value::Array(valid.clone());
            // Plugins that were written before an error in the specification was found read this field.
            config["cni.dev/attachments"] = Value::Array(valid.clone());
            self.call_with(&network, plugin, Verb::Gc, &[], &config).await?;
        }
        Ok(())
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
