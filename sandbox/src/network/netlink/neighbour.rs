//! Hardware addresses of neighbours.

use std::net::IpAddr;

use super::message::Messages;
use super::route::family;

const RTM_NEWNEIGH: u16 = 28;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_REPLACE: u16 = 0x100;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_STALE: u16 = 4;
/// Excluded from the kernel's limit: its table, of 1024 entries by default, is shared by all namespaces.
const NTF_EXT_LEARNED: u8 = 0x10;
const NDMSG: usize = 12;

/// The lifetime of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::network) enum EntryLifetime {
    /// Until the kernel needs the space.
    WhileUsed,
    /// As long as the interface.
    WithInterface,
}

/// Adds the message for an entry that the kernel would otherwise request with the first packet. A request for
/// an address that is some milliseconds old may get no response: IPv6 interfaces receive it only when a work
/// queue has run, and then a second passes. The kernel verifies the entry later itself, and removes unused
/// ones.
pub(in crate::network) fn add_neighbour(
    messages: &mut Messages,
    index: u32,
    address: IpAddr,
    mac: [u8; 6],
    lifetime: EntryLifetime,
) {
    let mut fixed = [0; NDMSG];
    fixed[0] = family(address);
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..10].copy_from_slice(&NUD_STALE.to_ne_bytes());
    if lifetime == EntryLifetime::WithInterface {
        fixed[10] = NTF_EXT_LEARNED;
    }
    messages
        .request("add neighbour", RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &fixed)
        // Only an optimisation.
        .optional()
        .attr_ip(NDA_DST, address)
        .attr(NDA_LLADDR, &mac);
}
