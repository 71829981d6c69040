//! The frame around nf_tables messages: a batch is executed completely or not at all.

use std::net::IpAddr;

use crate::network::netlink::Messages;

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const AF_UNSPEC: u8 = 0;

/// The protocol family of a table, and the layout of its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    pub(super) fn address_length(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    /// The number of 32-bit registers of an address.
    pub(super) fn address_registers(self) -> u32 {
        self.address_length() / 4
    }

    /// The offset of the source address in the header.
    pub(super) fn source_offset(self) -> u32 {
        match self {
            Self::V4 => 12,
            Self::V6 => 8,
        }
    }

    pub(super) fn destination_offset(self) -> u32 {
        self.source_offset() + self.address_length()
    }
}

/// Creates the object if it does not exist.
pub(super) const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
/// Appends rules to the end of their chain.
pub(super) const APPEND: u16 = NLM_F_CREATE | NLM_F_APPEND;

/// The used values of `enum nf_tables_msg_types`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    NewTable = 0,
    GetTable = 1,
    DelTable = 2,
    NewChain = 3,
    GetChain = 4,
    NewRule = 6,
    GetRule = 7,
    NewSet = 9,
    NewElements = 12,
    GetElements = 13,
    DelElements = 14,
    NewGeneration = 15,
    GetGeneration = 16,
}

impl Kind {
    /// The netlink message type.
    pub(super) fn number(self) -> u16 {
        NFNL_SUBSYS_NFTABLES << 8 | u16::from(self as u8)
    }
}

/// `struct nfgenmsg`.
pub(super) fn nfgenmsg(family: u8) -> [u8; 4] {
    [family, 0, 0, 0]
}

fn batch_frame() -> [u8; 4] {
    let subsystem = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    [AF_UNSPEC, 0, subsystem[0], subsystem[1]]
}

/// The messages that `inside` writes, as one transaction.
pub(super) fn batch(inside: impl FnOnce(&mut Messages)) -> Messages {
    let mut messages = Messages::new();
    messages.silent("nf_tables transaction", NFNL_MSG_BATCH_BEGIN, &batch_frame());
    inside(&mut messages);
    messages.silent("nf_tables transaction", NFNL_MSG_BATCH_END, &batch_frame());
    messages
}

/// Starts a message about objects of a family.
pub(super) fn start<'m>(
    messages: &'m mut Messages,
    family: Family,
    step: &'static str,
    kind: Kind,
    flags: u16,
) -> &'m mut Messages {
    messages.request(step, kind.number(), flags, &nfgenmsg(family.number()))
}
