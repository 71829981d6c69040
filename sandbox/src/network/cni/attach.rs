use std::os::fd::AsFd;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::config::{NetworkList, Plugin, Version};
use super::exec::{Call, CallError, Verb, run};
use super::record::CniRecord;
use super::{Cni, capability, namespace, result};
use crate::network::{AttachRequest, Attachment, INTERFACE, NetworkError, PortMapping};

impl Cni {
    /// Runs ADD of every plugin in order; after a failure, or when it is cancelled, DEL of all of them.
    pub(in crate::network) async fn attach(
        &self,
        network: Arc<NetworkList>,
        request: &AttachRequest,
        ports: &[PortMapping],
    ) -> Result<Attachment, NetworkError> {
        // Found out before anything runs, it leaves nothing to take back.
        self.check_installed(&network)?;
        let record = self.new_record(&network, request, ports)?;
        warn_of_ignored_ports(&network, &record);
        self.remember(record.clone()).await?;
        let attached = tokio::select! {
            biased;
            () = request.cancel.cancelled() => Err(NetworkError::Cancelled),
            attached = self.add_all(record, request) => attached,
        };
        match attached {
            Ok(attachment) => Ok(attachment),
            Err(error) => match self.detach(&request.pod).await {
                Ok(()) => Err(error),
                Err(undo) => Err(NetworkError::Undo { error: Box::new(error), undo: Box::new(undo) }),
            },
        }
    }

    fn new_record(
        &self,
        network: &NetworkList,
        request: &AttachRequest,
        ports: &[PortMapping],
    ) -> Result<CniRecord, NetworkError> {
        Ok(CniRecord {
            pod: request.pod.clone(),
            name: request.name.clone(),
            namespace: request.namespace.clone(),
            args: arguments(request)?,
            netns: namespace::path(&request.pod),
            network: network.clone(),
            capabilities: capability::offered(request, ports, network)?,
            ports: ports.to_vec(),
            result: None,
            attachment: None,
        })
    }

    async fn add_all(
        &self,
        mut record: CniRecord,
        request: &AttachRequest,
    ) -> Result<Attachment, NetworkError> {
        let failed =
            |source| NetworkError::Netlink { step: format!("prepare pod {}", request.pod.short()), source };
        request.netlink.loopback_up().map_err(failed)?;
        namespace::publish(&record.netns, request.netns.as_fd())?;
        let network = record.network.clone();
        let mut previous = None;
        for plugin in &network.plugins {
            let stdout = self.call(&record, plugin, Verb::Add, previous.as_ref()).await?;
            let printed = result::read(&stdout).map_err(|why| complaint(&network, plugin, Verb::Add, why))?;
            previous = Some(printed);
        }
        let (Some(result), Some(last)) = (previous, network.plugins.last()) else {
            return Err(NetworkError::Interrupted("attach"));
        };
        let attachment = result::attachment(&result, &network.name, INTERFACE)
            .map_err(|why| complaint(&network, last, Verb::Add, why))?;
        record.result = Some(result);
        record.attachment = Some(attachment.clone());
        self.remember(record).await?;
        Ok(attachment)
    }

    /// One plugin, one verb, for the pod of the record.
    pub(super) async fn call(
        &self,
        record: &CniRecord,
        plugin: &Plugin,
        verb: Verb,
        previous: Option<&Value>,
    ) -> Result<Vec<u8>, NetworkError> {
        let network = &record.network;
        let config =
            plugin_config(network, plugin, previous, capability::wanted(plugin, &record.capabilities));
        let netns = match namespace::is_published(&record.netns) {
            true => record.netns.display().to_string(),
            // DEL without a namespace frees what is kept outside of it.
            false => String::new(),
        };
        let environment = [
            ("CNI_CONTAINERID", record.pod.to_string()),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", INTERFACE.to_owned()),
            ("CNI_ARGS", record.args.clone()),
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
        let call = Call { plugin: &plugin.kind, bin_dirs, verb, environment, config, deadline };
        run(&call).await.map_err(|error| match error {
            CallError::Missing => self.missing(network, &plugin.kind),
            CallError::Failed(why) => complaint(network, plugin, verb, why),
        })
    }

    pub(super) fn missing(&self, network: &NetworkList, plugin: &str) -> NetworkError {
        let dirs: Vec<String> = self.bin_dirs.iter().map(|dir| dir.display().to_string()).collect();
        NetworkError::CniMissing {
            plugin: plugin.to_owned(),
            network: network.name.clone(),
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

/// The configuration as the plugin gets it: its own part, what belongs to the whole network, and what only
/// the runtime knows.
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

/// `CNI_ARGS` has no way of quoting, so what would end a value is refused.
fn arguments(request: &AttachRequest) -> Result<String, NetworkError> {
    let mut text = "IgnoreUnknown=1".to_owned();
    for (key, value) in [
        ("K8S_POD_NAMESPACE", request.namespace.as_str()),
        ("K8S_POD_NAME", request.name.as_str()),
        ("K8S_POD_INFRA_CONTAINER_ID", request.pod.as_str()),
        ("K8S_POD_UID", request.uid.as_str()),
    ] {
        if value.bytes().any(|b| matches!(b, b';' | b'=') || b.is_ascii_control()) {
            return Err(NetworkError::Annotation {
                key,
                value: value.chars().take(80).collect(),
                why: "';', '=' and control characters cannot be handed to CNI plugins",
            });
        }
        text.push_str(&format!(";{key}={value}"));
    }
    Ok(text)
}

fn warn_of_ignored_ports(network: &NetworkList, record: &CniRecord) {
    if !record.ports.is_empty() && !network.plugins.iter().any(|p| p.wants("portMappings")) {
        let (pod, network) = (record.pod.short(), &network.name);
        tracing::warn!(
            pod,
            network,
            "host ports are not published: no plugin of the network has the capability portMappings"
        );
    }
}

/// DEL and CHECK are given the result of ADD from this version on.
pub(super) fn passes_result_on(network: &NetworkList) -> bool {
    network.version >= Version::V0_4_0
}
