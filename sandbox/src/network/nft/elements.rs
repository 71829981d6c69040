//! Published ports as map and set elements.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use super::expression::{NFTA_DATA_VALUE, octets};
use super::message::{Family, Kind, NLM_F_CREATE, start};
use crate::network::Protocol;
use crate::network::netlink::Messages;

pub(super) const NFTA_LIST_ELEM: u16 = 1;
pub(super) const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
pub(super) const NFTA_SET_ELEM_LIST_SET: u16 = 2;
pub(super) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
pub(super) const NFTA_SET_ELEM_KEY: u16 = 1;
pub(super) const NFTA_SET_ELEM_DATA: u16 = 2;

/// The elements attribute has a 16-bit length; this many take about a fifth of it.
const ELEMENTS_PER_MESSAGE: usize = 250;

/// host port → pod, for all addresses of the host.
pub(super) const BY_PORT: &str = "ports";
/// host address and port → pod.
pub(super) const BY_ADDRESS: &str = "ports_by_address";
/// The pods' addresses and ports of both.
pub(super) const TARGETS: &str = "published";

/// A port of a pod, published on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::network) struct Published {
    pub pod: IpAddr,
    pub protocol: Protocol,
    pub container_port: u16,
    pub host_port: u16,
    /// Of the same family as `pod`. `None` for every address of the host.
    pub host_ip: Option<IpAddr>,
}

impl Published {
    fn port_key(&self) -> Vec<u8> {
        concatenate(&[&[self.protocol.number()], &self.host_port.to_be_bytes()])
    }

    fn address_key(&self, address: IpAddr) -> Vec<u8> {
        concatenate(&[&octets(address), &[self.protocol.number()], &self.host_port.to_be_bytes()])
    }

    fn target_key(&self) -> Vec<u8> {
        concatenate(&[&octets(self.pod), &[self.protocol.number()], &self.container_port.to_be_bytes()])
    }

    fn target(&self) -> Vec<u8> {
        concatenate(&[&octets(self.pod), &self.container_port.to_be_bytes()])
    }
}

/// In the form of a firewall's listing.
impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.host_ip.map_or_else(String::new, |ip| format!("{ip} "));
        let Self { protocol, host_port, pod, container_port, .. } = self;
        write!(f, "{place}{protocol} {host_port} to {pod} {container_port}")
    }
}

/// Each part of a concatenation starts a new 32-bit register.
fn concatenate(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(parts.len() * 4);
    for part in parts {
        bytes.extend_from_slice(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

pub(super) type Element = (Vec<u8>, Option<Vec<u8>>);

/// Adds messages that add the ports to the maps, or remove them (`DelElements`).
pub(super) fn change(messages: &mut Messages, kind: Kind, table: &str, ports: &[Published]) {
    for family in Family::ALL {
        let ports: Vec<&Published> = ports.iter().filter(|port| Family::of(port.pod) == family).collect();
        each_set(&ports, |set, elements| write(messages, kind, (family, table, set), elements));
    }
}

pub(super) fn each_set(ports: &[&Published], mut write: impl FnMut(&str, &[Element])) {
    // An unspecified address is the same as none, and two host ports may have one target.
    let by_port: BTreeSet<Element> =
        ports.iter().filter(|p| p.host_ip.is_none()).map(|p| (p.port_key(), Some(p.target()))).collect();
    let by_address: BTreeSet<Element> =
        ports.iter().filter_map(|p| Some((p.address_key(p.host_ip?), Some(p.target())))).collect();
    let targets: BTreeSet<Element> = ports.iter().map(|p| (p.target_key(), None)).collect();
    for (set, elements) in [(BY_PORT, by_port), (BY_ADDRESS, by_address), (TARGETS, targets)] {
        let elements: Vec<Element> = elements.into_iter().collect();
        elements.chunks(ELEMENTS_PER_MESSAGE).for_each(|chunk| write(set, chunk));
    }
}

pub(super) fn write(
    messages: &mut Messages,
    kind: Kind,
    (family, table, set): (Family, &str, &str),
    elements: &[Element],
) {
    let (step, flags) = match kind {
        Kind::DelElements => ("remove published ports", 0),
        _ => ("add published ports", NLM_F_CREATE),
    };
    start(messages, family, step, kind, flags)
        .attr_str(NFTA_SET_ELEM_LIST_TABLE, table)
        .attr_str(NFTA_SET_ELEM_LIST_SET, set)
        .nest(NFTA_SET_ELEM_LIST_ELEMENTS, |m| {
            for (key, data) in elements {
                m.nest(NFTA_LIST_ELEM, |m| {
                    value(m, NFTA_SET_ELEM_KEY, key);
                    if let Some(data) = data {
                        value(m, NFTA_SET_ELEM_DATA, data);
                    }
                });
            }
        });
}

fn value(m: &mut Messages, kind: u16, bytes: &[u8]) {
    m.nest(kind, |m| {
        m.attr(NFTA_DATA_VALUE, bytes);
    });
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn keys_are_laid_out_in_registers() {
        let port = Published {
            pod: Ipv4Addr::new(10, 88, 0, 2).into(),
            protocol: Protocol::Tcp,
            container_port: 8080,
            host_port: 80,
            host_ip: None,
        };
        assert_eq!(port.port_key(), [6, 0, 0, 0, 0, 80, 0, 0]);
        assert_eq!(port.target(), [10, 88, 0, 2, 0x1f, 0x90, 0, 0]);
        assert_eq!(port.address_key(Ipv4Addr::LOCALHOST.into()), [127, 0, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0]);
    }

    #[test]
    fn two_host_ports_of_one_target_make_one_target() {
        let port = |host_port| Published {
            pod: Ipv4Addr::new(10, 88, 0, 2).into(),
            protocol: Protocol::Udp,
            container_port: 53,
            host_port,
            host_ip: None,
        };
        let mut counts = Vec::new();
        each_set(&[&port(53), &port(5353)], |set, elements| counts.push((set.to_owned(), elements.len())));
        assert_eq!(counts, [(BY_PORT.to_owned(), 2), (TARGETS.to_owned(), 1)]);
    }
}
