//! Calls one plugin with one verb: prepares its environment and configuration.

use std::time::Instant;

use crisp_metrics::trace;
use crisp_operation::waits_for;
use serde_json::{Map, Value, json};

use super::config::{NetworkList, Plugin, Version};
use super::exec::{Call, CallError, Verb, run};
use super::record::{CniRecord, Joined};
use super::{Cni, capability, metrics, namespace};
use crate::network::NetworkError;

impl Cni {
    /// Calls a plugin for the pod of the record, in one of its networks.
    pub(super) async fn call(
        &self,
        record: &CniRecord,
        joined: &Joined,
        plugin: &Plugin,
        verb: Verb,
        previous: Option<&Value>,
    ) -> Result<Vec<u8>, NetworkError> {
        let network = &joined.network;
        let runtime = capability::wanted(plugin, &joined.capabilities);
        let mut config = plugin_config(network, plugin, previous, runtime);
        if !joined.cni_args.is_empty() {
            config["args"] = json!({"cni": joined.cni_args});
        }
        let netns = match namespace::is_published(&record.netns) {
            true => record.netns.display().to_string(),
            // DEL without a namespace only frees resources outside of it.
            false => String::new(),
        };
        let environment = [
            ("CNI_CONTAINERID", record.pod.to_string()),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", joined.interface.clone()),
            ("CNI_ARGS", joined.args.clone()),
        ];
        self.call_with(network, plugin, verb, &environment, &config).await
    }

    pub(super) async fn call_with(
        &self,
        network: &NetworkList,
        plugin: &Plugin,
        verb: Verb,
        environment: &[(&'static str, String)],
        config: &Value,
    ) -> Result<Vec<u8>, NetworkError> {
        let (bin_dirs, deadline) = (self.bin_dirs.as_slice(), self.deadline);
        let name = &plugin.kind;
        let _wait =
            waits_for(|| format!("the CNI plugin {name} ({}) of network {}", verb.as_str(), network.name));
        let call = Call { plugin: &plugin.kind, bin_dirs, verb, environment, config, deadline };
        let mut span = trace::client_span(|| format!("CNI {} {name}", verb.as_str()));
        span.set("cni.plugin", || name.clone());
        span.set("cni.verb", || verb.as_str());
        span.set("cni.network", || network.name.clone());
        let started = Instant::now();
        let result = run(&call).await;
        metrics::ended(name, verb, started, result.is_ok());
        let result = result.map_err(|error| match error {
            CallError::Missing => self.missing(network, &plugin.kind),
            CallError::Failed(why) => complaint(network, plugin, verb, why),
        });
        span.done(result)
    }

    pub(super) fn missing(&self, network: &NetworkList, plugin: &str) -> NetworkError {
        let dirs: Vec<String> = self.bin_dirs.iter().map(|dir| dir.display().to_string()).collect();
        NetworkError::CniMissing {
            plugin: plugin.to_owned(),
            network: network.name.clone(),
            path: network.path.clone(),
            dirs: dirs.join(" or "),
        }
    }
}

pub(super) fn complaint(network: &NetworkList, plugin: &Plugin, verb: Verb, why: String) -> NetworkError {
    NetworkError::CniPlugin {
        plugin: plugin.kind.clone(),
        command: verb.as_str(),
        network: network.name.clone(),
        why,
    }
}

/// The configuration for the plugin: its own part, fields of the whole network, and values from the runtime.
pub(super) fn plugin_config(
    network: &NetworkList,
    plugin: &Plugin,
    previous: Option<&Value>,
    runtime: Option<Value>,
) -> Value {
    let mut config: Map<String, Value> = plugin.config.clone();
    config.insert("name".to_owned(), network.name.clone().into());
    config.insert("cniVersion".to_owned(), network.version.as_str().into());
    if let Some(runtime) = runtime {
        config.insert("runtimeConfig".to_owned(), runtime);
    }
    if let Some(previous) = previous {
        config.insert("prevResult".to_owned(), previous.clone());
    }
    Value::Object(config)
}

/// From this version on, DEL and CHECK get the result of ADD; earlier versions have no CHECK.
pub(super) fn passes_result_on(network: &NetworkList) -> bool {
    network.version >= Version::V0_4_0
}
