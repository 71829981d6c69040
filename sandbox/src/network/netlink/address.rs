//! Addresses on interfaces.

use std::net::Ipv4Addr;

use super::message::{Messages, attributes, u32_at};
use super::socket::{NetlinkError, Socket};

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_REPLACE: u16 = 0x100;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const AF_INET: u8 = 2;
const IFADDRMSG: usize = 8;

/// An IPv4 address on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::network) struct InterfaceAddress {
    pub index: u32,
    pub address: Ipv4Addr,
    pub prefix: u8,
    pub broadcast: Ipv4Addr,
}

/// Adds the message that puts the address on its interface; no error when it is there already.
pub(in crate::network) fn add_address(
    messages: &mut Messages,
    step: &'static str,
    address: &InterfaceAddress,
) {
    let mut fixed = [0; IFADDRMSG];
    fixed[0] = AF_INET;
    fixed[1] = address.prefix;
    fixed[4..].copy_from_slice(&address.index.to_ne_bytes());
    messages
        .request(step, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &fixed)
        .attr(IFA_LOCAL, &address.address.octets())
        .attr(IFA_ADDRESS, &address.address.octets())
        .attr(IFA_BROADCAST, &address.broadcast.octets());
}

/// All IPv4 addresses of the socket's namespace.
pub(in crate::network) fn addresses(socket: &mut Socket) -> Result<Vec<InterfaceAddress>, NetlinkError> {
    let mut fixed = [0; IFADDRMSG];
    fixed[0] = AF_INET;
    socket.list(
        |m| {
            m.dump("list addresses", RTM_GETADDR, &fixed);
        },
        |kind, payload| if kind == RTM_NEWADDR { parse(payload) } else { None },
    )
}

fn parse(payload: &[u8]) -> Option<InterfaceAddress> {
    let (mut address, mut broadcast) = (None, Ipv4Addr::UNSPECIFIED);
    for (kind, value) in attributes(payload.get(IFADDRMSG..)?) {
        let Ok(octets) = <[u8; 4]>::try_from(value) else { continue };
        match kind {
            // On a point-to-point link ADDRESS is the other side's, so LOCAL wins whatever the order.
            IFA_LOCAL => address = Some(Ipv4Addr::from(octets)),
            IFA_ADDRESS => address = address.or(Some(Ipv4Addr::from(octets))),
            IFA_BROADCAST => broadcast = Ipv4Addr::from(octets),
            _ => {}
        }
    }
    Some(InterfaceAddress {
        index: u32_at(payload, 4)?,
        address: address?,
        prefix: *payload.get(1)?,
        broadcast,
    })
}
