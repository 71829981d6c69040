//! Routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::message::{Messages, attributes, u32_at};
use super::socket::{NetlinkError, Socket};

const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_REPLACE: u16 = 0x100;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTN_UNICAST: u8 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const RTMSG: usize = 12;

/// A route's destination and its interface (0 for routes without one, such as unreachable).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::network) struct Route {
    pub destination: IpNet,
    pub device: u32,
}

/// Adds the message that makes `gateway` the default gateway of its family.
pub(super) fn add_default_route(messages: &mut Messages, step: &'static str, gateway: IpAddr, device: u32) {
    let family = family(gateway);
    let fixed = [family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0, 0, 0, 0];
    messages
        .request(step, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &fixed)
        .attr_ip(RTA_GATEWAY, gateway)
        .attr_u32(RTA_OIF, device);
}

/// All routes of the socket's namespace, of every table, including those for its own addresses.
pub(in crate::network) fn routes(socket: &mut Socket) -> Result<Vec<Route>, NetlinkError> {
    socket.list(
        |m| {
            m.dump("list routes", RTM_GETROUTE, &[0; RTMSG]);
        },
        |kind, payload| if kind == RTM_NEWROUTE { parse(payload) } else { None },
    )
}

fn parse(payload: &[u8]) -> Option<Route> {
    let prefix = *payload.get(1)?;
    // Multicast routes have their own families.
    let (mut base, mut device) = match *payload.first()? {
        AF_INET => (Ipv4Addr::UNSPECIFIED.into(), 0),
        AF_INET6 => (Ipv6Addr::UNSPECIFIED.into(), 0),
        _ => return None,
    };
    for (kind, value) in attributes(payload.get(RTMSG..)?) {
        match kind {
            RTA_DST => base = ip_of(value)?,
            RTA_OIF => device = u32_at(value, 0)?,
            _ => {}
        }
    }
    Some(Route { destination: IpNet::new(base, prefix).ok()?.trunc(), device })
}

pub(super) fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// The address in an attribute; its length tells the family.
pub(in crate::network) fn ip_of(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(<[u8; 4]>::try_from(value).ok()?.into()),
        _ => Some(<[u8; 16]>::try_from(value).ok()?.into()),
    }
}
