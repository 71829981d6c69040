//! Addresses on interfaces.

use std::net::IpAddr;

use ipnet::IpNet;

use super::message::{Messages, attributes, u32_at};
use super::route::{family, ip_of};
use super::socket::{NetlinkError, Socket};

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_REPLACE: u16 = 0x100;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
/// `IFA_F_NODAD`: an IPv6 address can be used at once, without a second of duplicate address detection. Only
/// this server assigns these addresses.
const NO_DETECTION: u8 = 2;
const IFADDRMSG: usize = 8;

/// An address on an interface, with the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::network) struct InterfaceAddress {
    pub index: u32,
    pub address: IpNet,
}

/// Adds the message that assigns the address to its interface; no error when it has it already.
pub(in crate::network) fn add_address(
    messages: &mut Messages,
    step: &'static str,
    InterfaceAddress { index, address }: InterfaceAddress,
) {
    let mut fixed = [0; IFADDRMSG];
    fixed[0] = family(address.addr());
    fixed[1] = address.prefix_len();
    fixed[4..].copy_from_slice(&index.to_ne_bytes());
    if matches!(address, IpNet::V6(_)) {
        fixed[2] = NO_DETECTION;
    }
    let message = messages.request(step, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &fixed);
    message.attr_ip(IFA_LOCAL, address.addr()).attr_ip(IFA_ADDRESS, address.addr());
    if let IpNet::V4(address) = address {
        message.attr(IFA_BROADCAST, &address.broadcast().octets());
    }
}

/// All addresses of the socket's namespace.
pub(in crate::network) fn addresses(socket: &mut Socket) -> Result<Vec<InterfaceAddress>, NetlinkError> {
    socket.list(
        |m| {
            m.dump("list addresses", RTM_GETADDR, &[0; IFADDRMSG]);
        },
        |kind, payload| if kind == RTM_NEWADDR { parse(payload) } else { None },
    )
}

fn parse(payload: &[u8]) -> Option<InterfaceAddress> {
    let mut address: Option<IpAddr> = None;
    for (kind, value) in attributes(payload.get(IFADDRMSG..)?) {
        match kind {
            // On a point-to-point link ADDRESS is the peer's, so LOCAL always takes precedence.
            IFA_LOCAL => address = ip_of(value),
            IFA_ADDRESS => address = address.or(ip_of(value)),
            _ => {}
        }
    }
    let address = IpNet::new(address?, *payload.get(1)?).ok()?;
    Some(InterfaceAddress { index: u32_at(payload, 4)?, address })
}
