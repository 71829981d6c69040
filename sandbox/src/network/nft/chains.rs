use super::message::{Family, Kind, nfgenmsg};
use crate::network::netlink::{NetlinkError, Socket, attributes};

const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_INET: u8 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const FORWARD: u32 = 2;
const NF_DROP: u32 = 0;

/// The chains, as `table/chain`, that drop forwarded IPv4 packets unless a rule of theirs accepts.
/// iptables on nf_tables is among them; the old iptables is not visible here.
pub(in crate::network) fn forward_drops(socket: &mut Socket) -> Result<Vec<String>, NetlinkError> {
    socket.list(
        |m| {
            m.dump("list chains", Kind::GetChain.number(), &nfgenmsg(NFPROTO_UNSPEC));
        },
        |kind, payload| if kind == Kind::NewChain.number() { dropping(payload) } else { None },
    )
}

fn dropping(payload: &[u8]) -> Option<String> {
    if ![NFPROTO_INET, Family::V4.number()].contains(payload.first()?) {
        return None;
    }
    let (mut table, mut chain, mut forward, mut drops) = (String::new(), String::new(), false, false);
    for (kind, value) in attributes(payload.get(4..)?) {
        match kind {
            NFTA_CHAIN_TABLE => table = text(value),
            NFTA_CHAIN_NAME => chain = text(value),
            NFTA_CHAIN_POLICY => drops = number(value) == Some(NF_DROP),
            NFTA_CHAIN_HOOK => {
                forward =
                    attributes(value).any(|(k, v)| k == NFTA_HOOK_HOOKNUM && number(v) == Some(FORWARD));
            }
            _ => {}
        }
    }
    (forward && drops).then(|| format!("{table}/{chain}"))
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}
