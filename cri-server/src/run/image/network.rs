//! The annotation of a pod for --network and the options about it.

use std::net::IpAddr;

use anyhow::bail;
use serde_json::{Value, json};

use super::super::manifest::NETWORK_OF;
use super::Wanted;
use super::options::Options;

/// Key and value. None for the usual network, and for the host's.
pub(super) fn annotation(wanted: &Wanted<'_>) -> anyhow::Result<Option<(&'static str, String)>> {
    match joined(wanted.options) {
        Some(name) => {
            check_joined(wanted)?;
            Ok(Some((NETWORK_OF, name.to_owned())))
        }
        None => Ok(network(wanted)?.map(|networks| ("crisp/networks", networks))),
    }
}

/// Values of --network that are not a network of `crisp network`.
pub(super) const HOST: &str = "host";
pub(super) const CONTAINER: &str = "container:";
pub(super) const POD: &str = "pod:";
const NONE: &str = "none";
const USUAL: [&str; 5] = ["default", "bridge", "auto", "cni", "built-in"];

/// The named networks in the form of the annotation. The first one is the pod's eth0.
fn network(wanted: &Wanted<'_>) -> anyhow::Result<Option<String>> {
    let options = wanted.options;
    let named: Vec<&String> =
        options.network.iter().filter(|name| *name != HOST && !USUAL.contains(&name.as_str())).collect();
    let ips: Vec<String> = [options.ip.map(IpAddr::from), options.ip6.map(IpAddr::from)]
        .into_iter()
        .flatten()
        .map(|ip| ip.to_string())
        .collect();
    let is_more = !ips.is_empty() || options.mac_address.is_some() || !options.network_alias.is_empty();
    if named.is_empty() && is_more {
        bail!(
            "--ip, --ip6, --mac-address and --network-alias need --network with a network of `crisp network create`"
        );
    }
    if options.network.iter().any(|name| name == NONE) {
        return without_network(options, is_more).map(Some);
    }
    if let Some(name) = named.first() {
        if !wanted.is_detached {
            bail!(
                "--network {name}: networks of `crisp network` are the server's: run it under the server, by -d"
            );
        }
        if !(options.dns.is_empty() && options.dns_search.is_empty()) {
            bail!("--dns, --dns-search: names on the network {name} would not be found then");
        }
    }
    let entry = |(index, name): (usize, &&String)| {
        let mut entry = json!({ "name": name });
        if index == 0 {
            entry["interface"] = json!("eth0");
            entry["ips"] = json!(ips);
            entry["aliases"] = json!(options.network_alias);
            if let Some(mac) = &options.mac_address {
                entry["mac"] = json!(mac);
            }
        }
        entry
    };
    let entries: Vec<Value> = named.iter().enumerate().map(entry).collect();
    Ok((!entries.is_empty()).then(|| Value::from(entries).to_string()))
}

/// The container or pod whose network is joined.
fn joined(options: &Options) -> Option<&str> {
    options.network.iter().find_map(|word| word.strip_prefix(CONTAINER).or_else(|| word.strip_prefix(POD)))
}

/// The value of --network that joins a network.
pub(super) fn joined_mut(options: &mut Options) -> Option<&mut String> {
    let joins = |word: &&mut String| word.starts_with(CONTAINER) || word.starts_with(POD);
    options.network.iter_mut().find(joins)
}

fn check_joined(wanted: &Wanted<'_>) -> anyhow::Result<()> {
    let options = wanted.options;
    let Some(word) = options.network.first() else { return Ok(()) };
    if !wanted.is_detached {
        bail!("--network {word}: it is a pod of the server: run this one under the server too, by -d");
    }
    let others = [
        ("--network", options.network.len() > 1),
        ("--publish", !options.publish.is_empty() || options.publish_all),
        ("--hostname", options.hostname.is_some()),
        ("--dns", !options.dns.is_empty()),
        ("--dns-search", !options.dns_search.is_empty()),
        ("--dns-option", !options.dns_option.is_empty()),
        ("--ip", options.ip.is_some() || options.ip6.is_some()),
        ("--mac-address", options.mac_address.is_some()),
        ("--network-alias", !options.network_alias.is_empty()),
    ];
    match others.iter().find(|(_, is_there)| *is_there) {
        Some((option, _)) => bail!("{option}: with --network {word} it is for that one to have"),
        None => Ok(()),
    }
}

/// The pod has only the interface lo.
fn without_network(options: &Options, is_more: bool) -> anyhow::Result<String> {
    if options.network.len() > 1 {
        bail!("--network none: there is no other network then");
    }
    if is_more {
        bail!("--ip, --ip6, --mac-address, --network-alias: --network none has no interface for them");
    }
    if !options.publish.is_empty() || options.publish_all {
        bail!("--publish: nothing outside of the pod reaches it on --network none");
    }
    Ok(NONE.to_owned())
}
