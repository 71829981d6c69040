//! Deletes the kernel's UDP flows to published ports.
//!
//! The destination is decided only for the first packet of a flow. UDP has no end of flow: a sender that
//! keeps sending from one port keeps its flow, and so would never reach a later pod, or would send to one
//! that is gone. TCP detects that itself.
//!
//! Source: linux/netfilter/nfnetlink_conntrack.h.

use super::Protocol;
use super::netlink::{Messages, NetlinkError, Socket, attributes, ip_of};
use super::nft::Published;

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const NEW: u16 = NFNL_SUBSYS_CTNETLINK << 8;
const GET: u16 = NEW | 1;
const DELETE: u16 = NEW | 2;
/// `struct nfgenmsg` for both families.
const ANY_FAMILY: [u8; 4] = [0; 4];
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const NLA_F_NESTED: u16 = 0x8000;

/// Deletes the flows to these ports. Reads the whole table of flows, so it does nothing without UDP ports.
pub(super) fn forget(socket: &mut Socket, ports: &[Published]) -> Result<usize, NetlinkError> {
    let udp: Vec<&Published> = ports.iter().filter(|port| port.protocol == Protocol::Udp).collect();
    if udp.is_empty() {
        return Ok(0);
    }
    let flows = socket.list(
        |m| {
            m.dump("list flows", GET, &ANY_FAMILY);
        },
        |kind, payload| if kind == NEW { to_one_of(payload, &udp) } else { None },
    )?;
    for (family, flow) in &flows {
        let mut messages = Messages::new();
        // It may end by itself meanwhile.
        messages.request("forget a flow", DELETE, 0, &[*family, 0, 0, 0]).optional();
        messages.attr(CTA_TUPLE_ORIG | NLA_F_NESTED, flow);
        socket.run(messages)?;
    }
    Ok(flows.len())
}

/// The flow's family and its own description, if it goes to one of the ports.
fn to_one_of(payload: &[u8], ports: &[&Published]) -> Option<(u8, Vec<u8>)> {
    let (_, tuple) = attributes(payload.get(4..)?).find(|(kind, _)| *kind == CTA_TUPLE_ORIG)?;
    let (mut address, mut protocol, mut port) = (None, None, None);
    for (kind, nested) in attributes(tuple) {
        for (inner, value) in attributes(nested) {
            match (kind, inner) {
                (CTA_TUPLE_IP, CTA_IP_V4_DST | CTA_IP_V6_DST) => address = ip_of(value),
                (CTA_TUPLE_PROTO, CTA_PROTO_NUM) => protocol = value.first().copied(),
                (CTA_TUPLE_PROTO, CTA_PROTO_DST_PORT) => {
                    port = <[u8; 2]>::try_from(value).ok().map(u16::from_be_bytes)
                }
                _ => {}
            }
        }
    }
    let hit = |p: &&&Published| {
        protocol == Some(p.protocol.number())
            && port == Some(p.host_port)
            && address.is_some_and(|address| match p.host_ip {
                Some(host_ip) => host_ip == address,
                None => p.pod.is_ipv4() == address.is_ipv4(),
            })
    };
    ports.iter().find(hit).map(|_| (payload[0], tuple.to_vec()))
}
