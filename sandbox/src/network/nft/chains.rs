//! Chains of other programs that packets of pods pass.

use super::message::{Family, Kind, nfgenmsg};
use crate::network::netlink::{NetlinkError, Socket, attributes};

const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_INET: u8 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NF_INET_LOCAL_IN: u32 = 1;
const NF_INET_FORWARD: u32 = 2;
const NF_DROP: u32 = 0;

/// The place in the kernel where packets pass a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::network) enum Hook {
    /// Packets to the host.
    Input,
    /// Packets that the host forwards.
    Forward,
}

impl Hook {
    fn of(number: u32) -> Option<Self> {
        match number {
            NF_INET_LOCAL_IN => Some(Self::Input),
            NF_INET_FORWARD => Some(Self::Forward),
            _ => None,
        }
    }
}

/// A chain of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::network) struct Chain {
    /// The name in nft(8).
    pub family: &'static str,
    pub table: String,
    pub name: String,
    /// None for chains of other packets, and for those that only other chains lead to.
    pub hook: Option<Hook>,
    /// Whether its policy drops packets that no rule accepts.
    pub(super) has_policy_drop: bool,
    pub(super) number: u8,
}

/// All chains of IPv4, of IPv6 and of both. This includes iptables on nf_tables; the old iptables is not
/// visible here.
pub(in crate::network) fn chains(socket: &mut Socket) -> Result<Vec<Chain>, NetlinkError> {
    socket.list(
        |m| {
            m.dump("list chains", Kind::GetChain.number(), &nfgenmsg(NFPROTO_UNSPEC));
        },
        |kind, payload| if kind == Kind::NewChain.number() { parse(payload) } else { None },
    )
}

fn parse(payload: &[u8]) -> Option<Chain> {
    let number = *payload.first()?;
    let family = match number {
        NFPROTO_INET => "inet",
        _ if number == Family::V4.number() => "ip",
        _ if number == Family::V6.number() => "ip6",
        _ => return None,
    };
    let (table, name) = (String::new(), String::new());
    let mut chain = Chain { family, table, name, hook: None, has_policy_drop: false, number };
    for (kind, value) in attributes(payload.get(4..)?) {
        match kind {
            NFTA_CHAIN_TABLE => chain.table = text(value),
            NFTA_CHAIN_NAME => chain.name = text(value),
            NFTA_CHAIN_POLICY => chain.has_policy_drop = number_in(value) == Some(NF_DROP),
            NFTA_CHAIN_HOOK => {
                let number = attributes(value).find(|(kind, _)| *kind == NFTA_HOOK_HOOKNUM);
                chain.hook = number.and_then(|(_, number)| Hook::of(number_in(number)?));
            }
            _ => {}
        }
    }
    Some(chain)
}

pub(super) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

pub(super) fn number_in(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}
