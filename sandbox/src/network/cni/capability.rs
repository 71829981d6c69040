//! Values that plugins can request from the runtime: the `runtimeConfig` of the specification's conventions.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::config::{NetworkList, Plugin};
use crate::network::bandwidth::Bandwidth;
use crate::network::node_cidr::NodeCidr;
use crate::network::selection::{Selection, is_first};
use crate::network::{AttachRequest, DnsSettings, NetworkError, PortMapping};

/// A shaper without a burst passes nothing; Kubernetes runtimes use this value.
const BURST: u64 = u32::MAX as u64;

/// All values about one pod that plugins of a network could request. Ports, bandwidth and the node's address
/// ranges belong to the first network.
pub(super) fn offered(
    request: &AttachRequest,
    ports: &[PortMapping],
    network: &NetworkList,
    selection: &Selection,
    node: Option<NodeCidr>,
) -> Result<Map<String, Value>, NetworkError> {
    let mut offered = Map::new();
    let mut offer = |name: &str, value: Value| offered.insert(name.to_owned(), value);
    if is_first(selection) {
        if !ports.is_empty() {
            offer("portMappings", ports.iter().map(port_mapping).collect());
        }
        // An annotation that no plugin reads must not keep a pod from its network.
        if is_wanted(network, "bandwidth")
            && let Some(bandwidth) = bandwidth(&request.annotations)?
        {
            offer("bandwidth", bandwidth);
        }
        if let Some(node) = node {
            offer("ipRanges", node.networks().iter().map(|net| json!([{"subnet": net}])).collect());
        }
    }
    if request.dns != DnsSettings::default() {
        let DnsSettings { servers, searches, options } = &request.dns;
        offer("dns", json!({"servers": servers, "searches": searches, "options": options}));
    }
    if let Some(cgroup) = &request.cgroup {
        offer("cgroupPath", cgroup.as_str().into());
    }
    if !request.annotations.is_empty() {
        offer("io.kubernetes.cri.pod-annotations", json!(request.annotations));
    }
    let aliases: Vec<&String> = std::iter::once(&request.name).chain(&selection.aliases).collect();
    offer("aliases", json!(aliases));
    offered.extend(demanded(selection, network)?);
    Ok(offered)
}

/// The pod's requests must reach a plugin.
fn demanded(selection: &Selection, network: &NetworkList) -> Result<Map<String, Value>, NetworkError> {
    let Selection { ips, mac, infiniband_guid, aliases, .. } = selection;
    let demands = [
        ("ips", (!ips.is_empty()).then(|| json!(ips))),
        ("mac", mac.as_ref().map(|mac| json!(mac))),
        ("infinibandGUID", infiniband_guid.as_ref().map(|guid| json!(guid))),
    ];
    let demands = demands.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let wants_aliases = (!aliases.is_empty()).then_some("aliases");
    let mut missing = demands.clone().map(|(name, _)| name).chain(wants_aliases);
    if let Some(name) = missing.find(|name| !is_wanted(network, name)) {
        return Err(NetworkError::Selection {
            value: network.name.clone(),
            why: format!("no plugin of the network has the capability {name}"),
        });
    }
    Ok(demands.map(|(name, value)| (name.to_owned(), value)).collect())
}

fn is_wanted(network: &NetworkList, capability: &str) -> bool {
    network.plugins.iter().any(|plugin| plugin.wants(capability))
}

/// The values that this plugin requests; `None` when it requests none.
pub(super) fn wanted(plugin: &Plugin, offered: &Map<String, Value>) -> Option<Value> {
    let wanted: Map<String, Value> =
        offered.iter().filter(|(name, _)| plugin.wants(name)).map(|(k, v)| (k.clone(), v.clone())).collect();
    (!wanted.is_empty()).then_some(Value::Object(wanted))
}

fn port_mapping(port: &PortMapping) -> Value {
    let mut value = json!({
        "hostPort": port.host_port,
        "containerPort": port.container_port,
        "protocol": port.protocol.as_str(),
    });
    if let (Some(ip), Value::Object(object)) = (port.host_ip, &mut value) {
        object.insert("hostIP".to_owned(), Value::String(ip.to_string()));
    }
    value
}

fn bandwidth(annotations: &BTreeMap<String, String>) -> Result<Option<Value>, NetworkError> {
    let Bandwidth { ingress, egress } = Bandwidth::of(annotations)?;
    let mut limits = Map::new();
    for (limit, rate, burst) in
        [(ingress, "ingressRate", "ingressBurst"), (egress, "egressRate", "egressBurst")]
    {
        if let Some(bits) = limit {
            limits.insert(rate.to_owned(), bits.into());
            limits.insert(burst.to_owned(), BURST.into());
        }
    }
    Ok((!limits.is_empty()).then_some(Value::Object(limits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidth_comes_from_annotations() {
        let annotations = BTreeMap::from([("kubernetes.io/ingress-bandwidth".to_owned(), "10M".to_owned())]);
        let limits = bandwidth(&annotations).unwrap().unwrap();
        assert_eq!(limits, json!({"ingressRate": 10_000_000, "ingressBurst": 4_294_967_295_u32}));
        assert_eq!(bandwidth(&BTreeMap::new()).unwrap(), None);
    }

    #[test]
    fn a_plugin_gets_only_what_it_asks_for() {
        let config = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        let plugin = Plugin { kind: "portmap".to_owned(), config: config.as_object().unwrap().clone() };
        let offered = json!({"portMappings": [1], "dns": {}});
        let offered = offered.as_object().unwrap();
        assert_eq!(wanted(&plugin, offered), Some(json!({"portMappings": [1]})));
        let plain = Plugin { kind: "bridge".to_owned(), config: Map::new() };
        assert_eq!(wanted(&plain, offered), None);
    }
}
