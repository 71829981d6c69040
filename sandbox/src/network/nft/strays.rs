//! Elements of our maps and sets that no pod needs, and those that are missing.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;

use rustix::io::Errno;

use super::elements::{
    self, BY_ADDRESS, BY_PORT, Element, NFTA_LIST_ELEM, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_KEY,
    NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_TABLE, Published, TARGETS,
};
use super::expression::NFTA_DATA_VALUE;
use super::message::{Family, Kind, nfgenmsg};
use crate::network::netlink::{Messages, NetlinkError, Socket, attributes};

/// An element that belongs to no pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::network) struct Stray {
    family: Family,
    set: &'static str,
    element: Element,
}

/// The elements of a table that publish none of these ports.
pub(super) fn list(
    socket: &mut Socket,
    family: Family,
    table: &str,
    ports: &[Published],
) -> Result<Vec<Stray>, NetlinkError> {
    let ports: Vec<&Published> = ports.iter().filter(|port| Family::of(port.pod) == family).collect();
    let mut needed = HashSet::new();
    elements::each_set(&ports, |set, elements| {
        needed.extend(elements.iter().map(|element| (set.to_owned(), element.clone())));
    });
    let mut strays = Vec::new();
    for set in [BY_PORT, BY_ADDRESS, TARGETS] {
        let found = dump(socket, family, table, set)?;
        let extra = found.into_iter().filter(|element| !needed.contains(&(set.to_owned(), element.clone())));
        strays.extend(extra.map(|element| Stray { family, set, element }));
    }
    Ok(strays)
}

/// The ports of which an element is missing.
pub(super) fn absent(
    socket: &mut Socket,
    family: Family,
    table: &str,
    ports: &[Published],
) -> Result<Vec<Published>, NetlinkError> {
    let ports = ports.iter().filter(|port| Family::of(port.pod) == family);
    let mut found = HashSet::new();
    for set in [BY_PORT, BY_ADDRESS, TARGETS] {
        let elements = dump(socket, family, table, set)?;
        found.extend(elements.into_iter().map(|element| (set.to_owned(), element)));
    }
    let is_absent = |port: &&Published| {
        let mut absent = false;
        elements::each_set(&[port], |set, elements| {
            absent |= elements.iter().any(|element| !found.contains(&(set.to_owned(), element.clone())));
        });
        absent
    };
    Ok(ports.filter(is_absent).cloned().collect())
}

/// Adds messages that remove them.
pub(super) fn remove(messages: &mut Messages, table: &str, strays: &[Stray]) {
    for Stray { family, set, element } in strays {
        elements::write(messages, Kind::DelElements, (*family, table, set), std::slice::from_ref(element));
    }
}

fn dump(socket: &mut Socket, family: Family, table: &str, set: &str) -> Result<Vec<Element>, NetlinkError> {
    let listed = socket.list(
        |m| {
            let request =
                m.dump("list published ports", Kind::GetElements.number(), &nfgenmsg(family.number()));
            request.attr_str(NFTA_SET_ELEM_LIST_TABLE, table).attr_str(NFTA_SET_ELEM_LIST_SET, set);
        },
        |kind, payload| (kind == Kind::NewElements.number()).then(|| parse(payload)),
    );
    match listed {
        Ok(messages) => Ok(messages.into_iter().flatten().collect()),
        // The table of a family that was not used when it was made.
        Err(NetlinkError::Refused { errno: Errno::NOENT, .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn parse(payload: &[u8]) -> Vec<Element> {
    let lists = attributes(payload.get(4..).unwrap_or_default())
        .filter(|(kind, _)| *kind == NFTA_SET_ELEM_LIST_ELEMENTS);
    let elements = lists.flat_map(|(_, list)| attributes(list)).filter(|(kind, _)| *kind == NFTA_LIST_ELEM);
    elements
        .filter_map(|(_, element)| {
            Some((part(element, NFTA_SET_ELEM_KEY)?, part(element, NFTA_SET_ELEM_DATA)))
        })
        .collect()
}

fn part(element: &[u8], wanted: u16) -> Option<Vec<u8>> {
    let (_, nested) = attributes(element).find(|(kind, _)| *kind == wanted)?;
    let (_, value) = attributes(nested).find(|(kind, _)| *kind == NFTA_DATA_VALUE)?;
    Some(value.to_vec())
}

impl fmt::Display for Stray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, data) = &self.element;
        let length = self.family.address_length() as usize;
        let of_address = |bytes: &[u8]| bytes.get(..length).and_then(address);
        if self.set == BY_PORT {
            write!(f, "{}", protocol_and_port(key))?;
        } else {
            let address = of_address(key).map_or_else(|| "?".to_owned(), |address| address.to_string());
            write!(f, "{address} {}", protocol_and_port(key.get(length..).unwrap_or_default()))?;
        }
        match data.as_deref().and_then(|data| Some((of_address(data)?, port(data.get(length..)?)?))) {
            Some((pod, port)) => write!(f, " to {pod} {port}"),
            None => write!(f, " ({})", self.set),
        }
    }
}

/// A protocol's number and a port, each in its own register.
fn protocol_and_port(bytes: &[u8]) -> String {
    let protocol = match bytes.first() {
        Some(6) => "tcp".to_owned(),
        Some(17) => "udp".to_owned(),
        Some(132) => "sctp".to_owned(),
        other => format!("protocol {}", other.copied().unwrap_or_default()),
    };
    let port = bytes.get(4..).and_then(port).map_or_else(|| "?".to_owned(), |port| port.to_string());
    format!("{protocol} {port}")
}

fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strays_are_named_as_a_firewall_lists_them() {
        let stray = |set, key: &[u8], data: Option<&[u8]>| {
            let element = (key.to_vec(), data.map(<[u8]>::to_vec));
            Stray { family: Family::V4, set, element }.to_string()
        };
        let data = [10, 88, 0, 9, 0, 80, 0, 0];
        assert_eq!(stray(BY_PORT, &[6, 0, 0, 0, 0x1f, 0x90, 0, 0], Some(&data)), "tcp 8080 to 10.88.0.9 80");
        let key = [127, 0, 0, 1, 17, 0, 0, 0, 0, 53, 0, 0];
        assert_eq!(stray(BY_ADDRESS, &key, Some(&data)), "127.0.0.1 udp 53 to 10.88.0.9 80");
        assert_eq!(stray(TARGETS, &key, None), "127.0.0.1 udp 53 (published)");
        assert_eq!(stray(BY_PORT, &[], None), "protocol 0 ? (ports)");
    }
}
