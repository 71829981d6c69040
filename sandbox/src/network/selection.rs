//! The networks that a pod requests in addition to the default one, with the annotation `crisp/networks`.
//!
//! The value has the format of the NPWG's `k8s.v1.cni.cncf.io/networks`: names separated by commas,
//! `lan@net1,storage`, or a JSON list of [`Selection`]s. The key is different: a meta-plugin (Multus) reads
//! that annotation itself, and a pod must not be attached twice. `none` alone is no network at all, also not
//! the default one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{INTERFACE, NetworkError};

/// The annotation's key.
pub const ANNOTATION: &str = "crisp/networks";

/// The name that stands for no network.
pub(super) const NONE: &str = "none";

/// More are probably an error: each costs a call of each of its plugins.
const MOST: usize = 16;
const MOST_ALIASES: usize = 16;

/// One network that a pod requests. If `interface` is `eth0`, it replaces the default network.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Selection {
    pub name: String,
    /// Interface name in the pod; by default net1, net2 and so on.
    #[serde(default)]
    pub interface: String,
    /// Requested addresses, with or without a prefix length.
    #[serde(default)]
    pub ips: Vec<String>,
    #[serde(default)]
    pub mac: Option<String>,
    #[serde(default)]
    pub infiniband_guid: Option<String>,
    /// Names under which others on the network find the pod.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// For the plugins, as `args.cni` of their configuration.
    #[serde(default)]
    pub cni_args: Map<String, Value>,
}

impl Selection {
    /// A selection with only a name.
    pub(super) fn named(name: &str, interface: &str) -> Self {
        Self {
            name: name.to_owned(),
            interface: interface.to_owned(),
            ips: Vec::new(),
            mac: None,
            infiniband_guid: None,
            aliases: Vec::new(),
            cni_args: Map::new(),
        }
    }
}

/// The networks in the annotations, each with its own interface.
pub(super) fn selections(annotations: &BTreeMap<String, String>) -> Result<Vec<Selection>, NetworkError> {
    let Some(text) = annotations.get(ANNOTATION) else { return Ok(Vec::new()) };
    parse(text).map_err(|why| NetworkError::Selection { value: text.chars().take(80).collect(), why })
}

fn parse(text: &str) -> Result<Vec<Selection>, String> {
    let text = text.trim();
    let mut all = if text.starts_with('[') {
        serde_json::from_str(text).map_err(|error| error.to_string())?
    } else {
        text.split(',').map(short).collect::<Result<Vec<_>, _>>()?
    };
    if all.len() > MOST {
        return Err(format!("{} networks, at most {MOST} are possible", all.len()));
    }
    if all.len() > 1 && all.iter().any(is_none) {
        return Err(format!("{NONE} is no network: a pod with it has no other"));
    }
    let mut interfaces = BTreeSet::new();
    let mut number = 0;
    for selection in &mut all {
        if selection.interface.is_empty() {
            number += 1;
            selection.interface = format!("net{number}");
        }
        check(selection)?;
        if !interfaces.insert(selection.interface.clone()) {
            return Err(format!("two networks have the interface {}", selection.interface));
        }
    }
    Ok(all)
}

/// `name` or `name@interface`.
fn short(text: &str) -> Result<Selection, String> {
    let (name, interface) = text.trim().split_once('@').unwrap_or((text.trim(), ""));
    if name.contains('/') {
        return Err(format!("{name:?}: networks are in no namespace here: write the name alone"));
    }
    Ok(Selection::named(name, interface))
}

/// Checks the values; the error is the reason.
pub(super) fn check(
    Selection { name, interface, ips, mac, infiniband_guid, aliases, .. }: &Selection,
) -> Result<(), String> {
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.is_empty() || !name.bytes().all(word) {
        return Err(format!("{name:?} is not a network name: letters, digits, '.', '_' and '-' only"));
    }
    let is_name =
        interface.len() <= 15 && interface.bytes().all(word) && interface.starts_with(char::is_alphabetic);
    if !is_name || interface == "lo" {
        return Err(format!(
            "{interface:?} is not an interface name: a letter, then up to 14 letters, digits, '.', '_' and '-'; not lo"
        ));
    }
    if let Some(ip) = ips.iter().find(|ip| ip.parse::<IpAddr>().is_err() && ip.parse::<IpNet>().is_err()) {
        return Err(format!("network {name}: {ip:?} is not an address"));
    }
    for (text, bytes, what) in [(mac, 6, "hardware address"), (infiniband_guid, 8, "InfiniBand GUID")] {
        if let Some(text) = text.as_ref().filter(|text| !is_octets(text, bytes)) {
            return Err(format!(
                "network {name}: {text:?} is not a {what}: {bytes} pairs of hexadecimal digits with colons between"
            ));
        }
    }
    if aliases.len() > MOST_ALIASES {
        return Err(format!(
            "network {name}: {} aliases, at most {MOST_ALIASES} are possible",
            aliases.len()
        ));
    }
    match aliases.iter().find(|alias| !is_label(alias)) {
        Some(alias) => Err(format!("network {name}: {alias:?} is not a host name")),
        None => Ok(()),
    }
}

fn is_octets(text: &str, count: usize) -> bool {
    let pair = |pair: &str| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit());
    text.split(':').count() == count && text.split(':').all(pair)
}

fn is_label(text: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    text.len() <= 63
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && edge(text.bytes().next())
        && edge(text.bytes().last())
}

/// The interfaces that a pod with these annotations may have.
pub(crate) fn interfaces(annotations: &BTreeMap<String, String>) -> Vec<String> {
    let others = selections(annotations).unwrap_or_default().into_iter().map(|selection| selection.interface);
    std::iter::once(INTERFACE.to_owned()).chain(others).collect()
}

/// Whether it stands for no network.
pub(super) fn is_none(selection: &Selection) -> bool {
    selection.name == NONE
}

/// Whether it replaces the default network.
pub(super) fn is_first(selection: &Selection) -> bool {
    selection.interface == INTERFACE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vec<Selection>, String> {
        let annotations = BTreeMap::from([(ANNOTATION.to_owned(), text.to_owned())]);
        selections(&annotations).map_err(|error| error.to_string())
    }

    #[test]
    fn names_alone_get_interfaces() {
        assert_eq!(selections(&BTreeMap::new()).unwrap(), []);
        let named = [("a", "net1"), ("b", "lan0"), ("c", "net2")].map(|(n, i)| Selection::named(n, i));
        assert_eq!(of("a, b@lan0 ,c").unwrap(), named);
        assert_eq!(of(r#"[{"name":"a"},{"name":"b","interface":"lan0"},{"name":"c"}]"#).unwrap(), named);
    }

    #[test]
    fn json_has_addresses_and_more() {
        let text = r#"[{"name":"a","interface":"eth0","ips":["10.1.0.7/24","fd00::7"],"mac":"02:00:00:00:00:07",
            "infiniband-guid":"c2:11:22:33:44:55:66:77","aliases":["db"],"cni-args":{"vlan":7}}]"#;
        let [one] = &of(text).unwrap()[..] else { panic!() };
        assert!(is_first(one));
        assert_eq!((one.ips.len(), one.aliases.as_slice()), (2, &["db".to_owned()][..]));
        assert_eq!(one.cni_args["vlan"], 7);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, why) in [
            ("default/a", "\"default/a\": networks are in no namespace here"),
            ("a@net1,b@net1", "two networks have the interface net1"),
            ("a,b@net1", "two networks have the interface net1"),
            ("a,none", "none is no network"),
            ("a@lo", "\"lo\" is not an interface name"),
            ("a@0123456789abcdef", "is not an interface name"),
            ("", "\"\" is not a network name"),
            ("[{\"name\":\"a\",\"gateway\":[\"10.0.0.1\"]}]", "unknown field `gateway`"),
            ("[{\"name\":\"a\",\"ips\":[\"here\"]}]", "network a: \"here\" is not an address"),
            (
                "[{\"name\":\"a\",\"mac\":\"02:00\"}]",
                "network a: \"02:00\" is not a hardware address: 6 pairs",
            ),
            ("[{\"name\":\"a\",\"aliases\":[\"a b\"]}]", "network a: \"a b\" is not a host name"),
            ("[", "EOF"),
        ] {
            let error = of(text).unwrap_err();
            assert!(error.contains(why) && error.contains(ANNOTATION), "{text}: {error}");
        }
        assert!(of(&vec!["a"; 17].join(",")).unwrap_err().contains("at most 16"));
        let aliases = vec!["\"a\""; 17].join(",");
        assert!(
            of(&format!("[{{\"name\":\"a\",\"aliases\":[{aliases}]}}]")).unwrap_err().contains("17 aliases")
        );
    }
}
