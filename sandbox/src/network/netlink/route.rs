//! Routes.

use std::net::Ipv4Addr;

use super::message::{Messages, attributes, u32_at};
use super::socket::{NetlinkError, Socket};
use ipnet::Ipv4Net;

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
const RTMSG: usize = 12;

/// A route's destination and the interface it leads to (0 when it leads nowhere, as unreachable does).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::network) struct Route {
    pub destination: Ipv4Net,
    pub device: u32,
}

/// Adds the message that makes `gateway` the way to everywhere else.
pub(super) fn add_default_route(messages: &mut Messages, gateway: Ipv4Addr, device: u32) {
    let fixed = [AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0, 0, 0, 0];
    messages
        .request("add default route", RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &fixed)
        .attr(RTA_GATEWAY, &gateway.octets())
        .attr_u32(RTA_OIF, device);
}

/// All IPv4 routes of the socket's namespace, of every table, those for its own addresses included.
pub(in crate::network) fn routes(socket: &mut Socket) -> Result<Vec<Route>, NetlinkError> {
    let mut fixed = [0; RTMSG];
    fixed[0] = AF_INET;
    socket.list(
        |m| {
            m.dump("list routes", RTM_GETROUTE, &fixed);
        },
        |kind, payload| if kind == RTM_NEWROUTE { parse(payload) } else { None },
    )
}

fn parse(payload: &[u8]) -> Option<Route> {
    let prefix = *payload.get(1)?;
    let (mut base, mut device) = (Ipv4Addr::UNSPECIFIED, 0);
    for (kind, value) in attributes(payload.get(RTMSG..)?) {
        match kind {
            RTA_DST => base = Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?),
            RTA_OIF => device = u32_at(value, 0)?,
            _ => {}
        }
    }
    Some(Route { destination: Ipv4Net::new(base, prefix).ok()?.trunc(), device })
}
