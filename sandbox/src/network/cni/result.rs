//! The results of ADD.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use crate::network::{Attachment, DnsSettings, INTERFACE};

#[derive(Deserialize, Default)]
#[serde(default)]
struct AddResult {
    interfaces: Vec<Interface>,
    ips: Vec<Ip>,
    dns: Dns,
}

#[derive(Deserialize)]
struct Interface {
    name: String,
    #[serde(default)]
    mac: Option<String>,
    #[serde(default)]
    sandbox: Option<String>,
}

#[derive(Deserialize)]
struct Ip {
    address: String,
    #[serde(default)]
    interface: Option<usize>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Dns {
    nameservers: Vec<String>,
    search: Vec<String>,
    options: Vec<String>,
}

/// Reads a plugin's output as JSON, for the next plugin and the record.
pub(super) fn read(stdout: &[u8]) -> Result<Value, String> {
    let value: Value = match serde_json::from_slice(stdout) {
        Ok(value) => value,
        Err(_) if stdout.iter().all(u8::is_ascii_whitespace) => return Err("it printed no result".to_owned()),
        Err(e) => return Err(format!("its result is not JSON: {e}")),
    };
    if value.get("ip4").is_some() || value.get("ip6").is_some() {
        return Err("its result is in the form of specification 0.2.0; set cniVersion to one it answers in"
            .to_owned());
    }
    if value.is_object() { Ok(value) } else { Err("its result is not an object".to_owned()) }
}

/// The last plugin's result as the pod's attachment.
pub(super) fn attachment(value: &Value, network: &str, interface: &str) -> Result<Attachment, String> {
    let result: AddResult = serde_json::from_value(value.clone()).map_err(|e| format!("its result: {e}"))?;
    let mut ips = Vec::new();
    for ip in &result.ips {
        let belongs = ip.interface.and_then(|at| result.interfaces.get(at));
        // An address without an interface belongs to the only one that counts.
        if belongs.is_none_or(|i| i.name == interface && i.sandbox.as_deref() != Some("")) {
            ips.push(parse_address(&ip.address)?);
        }
    }
    // An additional interface may have no address, for example a switch port. The first must have one: where only a
    // configuration of the plugin loopback is there yet, pods wait for the network that comes.
    if ips.is_empty() && interface == INTERFACE {
        return Err(format!(
            "its result has no address for {interface}; the network \"none\" is for pods without one"
        ));
    }
    let inside = |i: &&Interface| i.name == interface && i.sandbox.as_deref().is_some_and(|s| !s.is_empty());
    let mac = result.interfaces.iter().find(inside).and_then(|i| i.mac.clone()).filter(|mac| !mac.is_empty());
    Ok(Attachment {
        ips,
        interface: interface.to_owned(),
        mac,
        network: network.to_owned(),
        dns: settings(result.dns),
    })
}

/// The values that can stand in a resolv.conf. Plugins copy these fields from the configuration unchecked.
fn settings(Dns { nameservers, search, options }: Dns) -> DnsSettings {
    let is_word =
        |text: &String| !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control());
    let is_address = |text: &String| text.split('%').next().is_some_and(|ip| ip.parse::<IpAddr>().is_ok());
    DnsSettings {
        servers: nameservers.into_iter().filter(|server| is_word(server) && is_address(server)).collect(),
        searches: search.into_iter().filter(is_word).collect(),
        options: options.into_iter().filter(is_word).collect(),
    }
}

fn parse_address(text: &str) -> Result<IpAddr, String> {
    let address = text.split_once('/').map_or(text, |(address, _)| address);
    address.parse().map_err(|_| format!("its result has the address {text:?}, which is none"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: &Value) -> Result<Attachment, String> {
        attachment(value, "net", "eth0")
    }

    #[test]
    fn addresses_of_the_pods_interface_count() {
        let result = json!({
            "interfaces": [{"name": "cni0", "mac": "00:00:00:00:00:01"},
                           {"name": "eth0", "mac": "00:00:00:00:00:02", "sandbox": "/run/netns/x"}],
            "ips": [{"address": "10.1.0.1/16", "interface": 0}, {"address": "10.1.0.9/16", "interface": 1},
                    {"address": "fd00::9/64"}],
            "dns": {"nameservers": ["10.0.0.53", "ns.example.com"], "search": ["a.example", "b\nnameserver 6.6.6.6"]}
        });
        let attachment = parse(&result).unwrap();
        assert_eq!(attachment.ips, ["10.1.0.9".parse::<IpAddr>().unwrap(), "fd00::9".parse().unwrap()]);
        assert_eq!(attachment.mac.as_deref(), Some("00:00:00:00:00:02"));
        assert_eq!(attachment.dns.servers, ["10.0.0.53"]);
        assert_eq!(attachment.dns.searches, ["a.example"]);
    }

    #[test]
    fn lo_alone_is_no_network() {
        let result = json!({
            "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": "/run/netns/x"}],
            "ips": [{"address": "127.0.0.1/8", "interface": 0}, {"address": "::1/128", "interface": 0}]
        });
        assert!(parse(&result).unwrap_err().contains("no address for eth0"));
    }

    #[test]
    fn results_that_say_nothing_are_errors() {
        assert!(read(b" \n").unwrap_err().contains("no result"));
        assert!(read(b"oops").unwrap_err().contains("not JSON"));
        assert!(read(b"[]").unwrap_err().contains("not an object"));
        assert!(read(br#"{"ip4":{"ip":"10.0.0.1/8"}}"#).unwrap_err().contains("0.2.0"));
        assert!(parse(&json!({})).unwrap_err().contains("no address for eth0"));
        assert!(parse(&json!({"ips": [{"address": "here"}]})).unwrap_err().contains("which is none"));
        assert!(parse(&json!({"ips": 7})).is_err());
    }
}
