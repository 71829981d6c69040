//! What plugins can ask the runtime for: the `runtimeConfig` of the specification's conventions.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::config::Plugin;
use crate::network::{AttachRequest, DnsSettings, NetworkError, PortMapping};

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// A shaper with no burst passes nothing; this is what Kubernetes runtimes give.
const BURST: u64 = u32::MAX as u64;

/// Everything that could be asked for, about one pod.
pub(super) fn offered(
    request: &AttachRequest,
    ports: &[PortMapping],
) -> Result<Map<String, Value>, NetworkError> {
    let mut offered = Map::new();
    if !ports.is_empty() {
        offered.insert("portMappings".to_owned(), ports.iter().map(port_mapping).collect());
    }
    if let Some(bandwidth) = bandwidth(&request.annotations)? {
        offered.insert("bandwidth".to_owned(), bandwidth);
    }
    if request.dns != DnsSettings::default() {
        let DnsSettings { servers, searches, options } = &request.dns;
        offered
            .insert("dns".to_owned(), json!({"servers": servers, "searches": searches, "options": options}));
    }
    if !request.annotations.is_empty() {
        offered.insert("io.kubernetes.cri.pod-annotations".to_owned(), json!(request.annotations));
    }
    Ok(offered)
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

/// A whole number with one of Kubernetes' suffixes.
fn quantity(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = text.split_at(digits);
    let factor: u64 = match suffix {
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
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
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
        for wrong in ["", "10", "fast", "10Mb", "-1M", "9999999P", "2P"] {
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
