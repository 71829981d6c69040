//! Attaches a pod to networks: ADD.

use std::os::fd::AsFd;
use std::sync::Arc;

use serde_json::Value;

use super::call::complaint;
use super::config::NetworkList;
use super::exec::Verb;
use super::record::{CniRecord, Joined};
use super::{Cni, capability, namespace, result};
use crate::network::selection::{Selection, is_first};
use crate::network::{AttachRequest, Attachment, NetworkError, PortMapping};

/// A network, and the pod's options for it.
#[derive(Debug, Clone)]
pub(in crate::network) struct Join {
    pub network: Arc<NetworkList>,
    pub selection: Selection,
}

impl Cni {
    /// Runs ADD of every plugin of every network in order; after a failure or a cancellation, DEL of all of
    /// them. There must be at least one network.
    pub(in crate::network) async fn attach(
        &self,
        joins: &[Join],
        request: &AttachRequest,
        ports: &[PortMapping],
    ) -> Result<Vec<Attachment>, NetworkError> {
        // Checked before anything runs, so that nothing must be undone.
        for join in joins {
            self.check_installed(&join.network)?;
        }
        let record = self.new_record(joins, request, ports)?;
        let _attaching = self.attaching.begin().await;
        self.end_earlier_collecting().await;
        warn_of_ignored_ports(&record);
        self.remember(record.clone()).await?;
        let attached = tokio::select! {
            biased;
            () = request.cancel.cancelled() => Err(NetworkError::Cancelled),
            attached = self.add_all(record, request) => attached,
        };
        match attached {
            Ok(attachments) => Ok(attachments),
            Err(error) => match self.detach(&request.pod, true).await {
                Ok(_) => Err(error),
                Err(undo) => Err(NetworkError::Undo { error: Box::new(error), undo: Box::new(undo) }),
            },
        }
    }

    fn new_record(
        &self,
        joins: &[Join],
        request: &AttachRequest,
        ports: &[PortMapping],
    ) -> Result<CniRecord, NetworkError> {
        let args = arguments(request)?;
        let node = self.node_cidr();
        let joined = |Join { network, selection }: &Join| {
            Ok(Joined {
                args: args.clone(),
                interface: selection.interface.clone(),
                network: (**network).clone(),
                capabilities: capability::offered(request, ports, network, selection, node)?,
                cni_args: selection.cni_args.clone(),
                result: None,
                attachment: None,
            })
        };
        let mut all = joins.iter().map(joined).collect::<Result<Vec<_>, NetworkError>>()?.into_iter();
        Ok(CniRecord {
            pod: request.pod.clone(),
            name: request.name.clone(),
            namespace: request.namespace.clone(),
            netns: namespace::path(&request.pod),
            ports: if joins.iter().any(|join| is_first(&join.selection)) {
                ports.to_vec()
            } else {
                Vec::new()
            },
            first: all.next().ok_or(NetworkError::Interrupted("choosing networks"))?,
            more: all.collect(),
        })
    }

    async fn add_all(
        &self,
        mut record: CniRecord,
        request: &AttachRequest,
    ) -> Result<Vec<Attachment>, NetworkError> {
        let failed =
            |source| NetworkError::Netlink { step: format!("prepare pod {}", request.pod.short()), source };
        request.netlink.loopback_up().map_err(failed)?;
        namespace::publish(&record.netns, request.netns.as_fd())?;
        let mut attachments = Vec::new();
        for at in 0..record.joined().count() {
            let Some(joined) = record.joined().nth(at) else { break };
            let (result, attachment) = self.add(&record, joined).await?;
            if let Some(joined) = record.joined_mut().nth(at) {
                joined.result = Some(result);
                joined.attachment = Some(attachment.clone());
            }
            attachments.push(attachment);
            self.remember(record.clone()).await?;
        }
        record.joined().for_each(|joined| self.cache.keep(&record, joined));
        Ok(attachments)
    }

    /// Runs the plugins of one network: each gets the result of the one before.
    async fn add(&self, record: &CniRecord, joined: &Joined) -> Result<(Value, Attachment), NetworkError> {
        let network = &joined.network;
        let mut previous = None;
        for plugin in &network.plugins {
            let stdout = self.call(record, joined, plugin, Verb::Add, previous.as_ref()).await?;
            let printed = result::read(&stdout).map_err(|why| complaint(network, plugin, Verb::Add, why))?;
            previous = Some(printed);
        }
        let (Some(result), Some(last)) = (previous, network.plugins.last()) else {
            return Err(NetworkError::Interrupted("attach"));
        };
        let attachment = result::attachment(&result, &network.name, &joined.interface)
            .map_err(|why| complaint(network, last, Verb::Add, why))?;
        Ok((result, attachment))
    }
}

/// `CNI_ARGS` has no quoting, so characters that would end a value are refused.
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

fn warn_of_ignored_ports(record: &CniRecord) {
    let network = &record.first.network;
    if !record.ports.is_empty() && !network.plugins.iter().any(|p| p.wants("portMappings")) {
        let (pod, network) = (record.pod.short(), &network.name);
        tracing::warn!(
            pod,
            network,
            "host ports are not published: no plugin of the network has the capability portMappings"
        );
    }
}
