//! The frame around nf_tables messages: a batch is executed as a whole or not at all.

use crate::network::netlink::Messages;

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const AF_UNSPEC: u8 = 0;
/// Protocol family of all we make.
pub(super) const NFPROTO_IPV4: u8 = 2;

/// Makes it if it is not there.
pub(super) const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
/// Rules go to the end of their chain.
pub(super) const APPEND: u16 = NLM_F_CREATE | NLM_F_APPEND;

/// `enum nf_tables_msg_types`, those used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    NewTable = 0,
    GetTable = 1,
    DelTable = 2,
    NewChain = 3,
    GetChain = 4,
    NewRule = 6,
    NewSet = 9,
    NewElements = 12,
    DelElements = 14,
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

/// What `inside` writes, as one transaction.
pub(super) fn batch(inside: impl FnOnce(&mut Messages)) -> Messages {
    let mut messages = Messages::new();
    messages.silent("nf_tables transaction", NFNL_MSG_BATCH_BEGIN, &batch_frame());
    inside(&mut messages);
    messages.silent("nf_tables transaction", NFNL_MSG_BATCH_END, &batch_frame());
    messages
}

/// Starts a message about IPv4 things.
pub(super) fn start<'m>(
    messages: &'m mut Messages,
    step: &'static str,
    kind: Kind,
    flags: u16,
) -> &'m mut Messages {
    messages.request(step, kind.number(), flags, &nfgenmsg(NFPROTO_IPV4))
}
