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
const NFTA_RULE_TABLE: u16 = 1;
const FORWARD: u32 = 2;
const NF_DROP: u32 = 0;

/// A chain of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::network) struct Chain {
    /// The name in nft(8).
    pub family: &'static str,
    pub table: String,
    pub name: String,
    /// Whether forwarded packets pass it.
    pub forwards: bool,
    /// Whether its policy drops packets that no rule accepts.
    pub drops: bool,
    number: u8,
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
    let mut chain = Chain { family, table, name, forwards: false, drops: false, number };
    for (kind, value) in attributes(payload.get(4..)?) {
        match kind {
            NFTA_CHAIN_TABLE => chain.table = text(value),
            NFTA_CHAIN_NAME => chain.name = text(value),
            NFTA_CHAIN_POLICY => chain.drops = number_in(value) == Some(NF_DROP),
            NFTA_CHAIN_HOOK => {
                chain.forwards =
                    attributes(value).any(|(k, v)| k == NFTA_HOOK_HOOKNUM && number_in(v) == Some(FORWARD));
            }
            _ => {}
        }
    }
    Some(chain)
}

/// Whether a rule of the chain's table names the interface: then an operator has already handled it.
pub(in crate::network) fn table_names(
    socket: &mut Socket,
    chain: &Chain,
    interface: &str,
) -> Result<bool, NetlinkError> {
    let name = format!("{interface}\0");
    let named = socket.list(
        |m| {
            let rules = m.dump("list rules", Kind::GetRule.number(), &nfgenmsg(chain.number));
            rules.attr_str(NFTA_RULE_TABLE, &chain.table);
        },
        |_, payload| payload.windows(name.len()).any(|part| part == name.as_bytes()).then_some(()),
    )?;
    Ok(!named.is_empty())
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

fn number_in(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}
