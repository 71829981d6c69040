//! What plugins can ask the runtime for: the `runtimeConfig` of the specification's conventions.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::config::{NetworkList, Plugin};
use crate::network::node_cidr::NodeCidr;
use crate::network::selection::{Selection, is_first};
use crate::network::{AttachRequest, DnsSettings, NetworkError, PortMapping};

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// A shaper with no burst passes nothing; this is what Kubernetes runtimes give.
const BURST: u64 = u32::MAX as u64;

/// Everything that plugins of a network could ask for, about one pod. Ports, bandwidth and the node's address
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
        // An annotation that no plugin reads keeps no pod from its network.
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

/// What the pod asks for must reach a plugin.
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

/// What this plugin asks for of it; `None` when that is nothing.
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
    let mut limits = Map::new();
    for (annotation, rate, burst) in
        [(INGRESS, "ingressRate", "ingressBurst"), (EGRESS, "egressRate", "egressBurst")]
    {
        let Some(text) = annotations.get(annotation) else { continue };
        let bits = quantity(text).filter(|bits| (1_000..=1_000_000_000_000_000).contains(bits));
        let bits = bits.ok_or_else(|| NetworkError::Annotation {
            key: annotation,
            value: text.chars().take(80).collect(),
            why: "expected bits per second from 1k to 1P, like 10M",
        })?;
        limits.insert(rate.to_owned(), bits.into());
        limits.insert(burst.to_owned(), BURST.into());
    }
    Ok((!limits.is_empty()).then_some(Value::Object(limits)))
}

/// One of Kubernetes' quantities: a decimal number with a suffix or an exponent, rounded up.
fn quantity(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, suffix) = text.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() == 0 || fraction.contains('.') || number.len() > 30 {
        return None;
    }
    let mantissa: u128 = format!("{whole}{fraction}").parse().ok()?;
    let scaled = mantissa.checked_mul(factor(suffix)?.into())?;
    let divisor = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    u64::try_from(scaled.div_ceil(divisor)).ok()
}

fn factor(suffix: &str) -> Option<u64> {
    if let Some(exponent) = suffix.strip_prefix(['e', 'E']).filter(|rest| !rest.is_empty()) {
        return 10_u64.checked_pow(exponent.strip_prefix('+').unwrap_or(exponent).parse().ok()?);
    }
    Some(match suffix {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidth_comes_from_annotations() {
        let annotations = |value: &str| BTreeMap::from([(INGRESS.to_owned(), value.to_owned())]);
        let limits = bandwidth(&annotations("10M")).unwrap().unwrap();
        assert_eq!(limits, json!({"ingressRate": 10_000_000, "ingressBurst": 4_294_967_295_u32}));
        assert_eq!(bandwidth(&BTreeMap::new()).unwrap(), None);
        for (text, bits) in
            [("1.5M", 1_500_000), ("10e6", 10_000_000), ("2E3", 2_000), (".5Mi", 524_288), ("1.k", 1_000)]
        {
            assert_eq!(quantity(text), Some(bits), "{text}");
        }
        for wrong in ["", ".", "1.2.3M", "1e", "1e99", "10", "fast", "10Mb", "-1M", "9999999P", "2P"] {
            let error = bandwidth(&annotations(wrong)).unwrap_err().to_string();
            assert!(error.contains(INGRESS) && error.contains("like 10M"), "{error}");
        }
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
