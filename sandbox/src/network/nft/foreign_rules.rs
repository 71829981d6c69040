//! Rules of other programs in the chains that packets of pods pass.

use super::chains::{Chain, Hook, number_in, text};
use super::expression::{NFTA_DATA_VERDICT, NFTA_EXPR_DATA, NFTA_EXPR_NAME, NFTA_VERDICT_CODE};
use super::message::{Kind, nfgenmsg};
use crate::network::netlink::{NetlinkError, Socket, attributes};

const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_VERDICT_CHAIN: u16 = 2;
/// The name of a match or target of iptables.
const NFTA_XT_NAME: u16 = 1;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const NFT_JUMP: u32 = (-3_i32).cast_unsigned();
const NFT_GOTO: u32 = (-4_i32).cast_unsigned();
const NFT_RETURN: u32 = (-5_i32).cast_unsigned();
/// The kernel's limit for chains that lead to chains (`NFT_JUMP_STACK_SIZE`).
const MAX_DEPTH: u32 = 16;

/// A rule of another program, as far as it matters to packets of pods.
#[derive(Debug)]
struct ForeignRule {
    chain: String,
    /// Its expressions, as the kernel sends them.
    expressions: Vec<u8>,
}

/// The effect of a rule or a chain on packets.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

/// Whether the base chain drops packets that none of its rules knows, by its policy or by a rule without a condition.
pub(in crate::network) fn drops_unknown(socket: &mut Socket, chain: &Chain) -> Result<bool, NetlinkError> {
    match verdict_of(socket, chain, &chain.name, MAX_DEPTH)? {
        Some(Verdict::Drop) => Ok(true),
        Some(Verdict::Accept) => Ok(false),
        _ => Ok(chain.has_policy_drop),
    }
}

/// The verdict about packets that meet no condition in the chain `name` of the same table. None when they return.
fn verdict_of(
    socket: &mut Socket,
    base: &Chain,
    name: &str,
    depth: u32,
) -> Result<Option<Verdict>, NetlinkError> {
    if depth == 0 {
        return Ok(None);
    }
    for rule in list(socket, base, Some(name))? {
        if name != base.name && may_return(&rule.expressions) {
            // Packets of pods may be among those that return.
            return Ok(None);
        }
        match unconditional(&rule.expressions) {
            Some(Verdict::Jump(to)) => {
                if let Some(verdict) = verdict_of(socket, base, &to, depth - 1)? {
                    return Ok(Some(verdict));
                }
            }
            Some(Verdict::Goto(to)) => return verdict_of(socket, base, &to, depth - 1),
            Some(Verdict::Return) => return Ok(None),
            Some(verdict) => return Ok(Some(verdict)),
            None => {}
        }
    }
    Ok(None)
}

/// Whether a rule for packets of the chain's hook names the interface: then an operator has already handled it.
///
/// A rule in a chain that only packets of other hooks pass does not count.
pub(in crate::network) fn names_interface(
    socket: &mut Socket,
    chain: &Chain,
    all: &[Chain],
    interface: &str,
) -> Result<bool, NetlinkError> {
    let rules = list(socket, chain, None)?;
    let of_table = |other: &&Chain| (other.number, &other.table) == (chain.number, &chain.table);
    let from = |is_start: &dyn Fn(Option<Hook>) -> bool| {
        let bases = all.iter().filter(of_table).filter(|base| base.hook.is_some() && is_start(base.hook));
        reachable(bases.map(|base| base.name.clone()).collect(), &rules)
    };
    let (own, others) = (from(&|hook| hook == chain.hook), from(&|hook| hook != chain.hook));
    let name = format!("{interface}\0");
    let names = |rule: &ForeignRule| rule.expressions.windows(name.len()).any(|part| part == name.as_bytes());
    let counts = |rule: &ForeignRule| own.contains(&rule.chain) || !others.contains(&rule.chain);
    Ok(rules.iter().any(|rule| counts(rule) && names(rule)))
}

/// These chains and those that their rules lead to.
fn reachable(mut chains: Vec<String>, rules: &[ForeignRule]) -> Vec<String> {
    let mut next = 0;
    while let Some(chain) = chains.get(next).cloned() {
        for rule in rules.iter().filter(|rule| rule.chain == chain) {
            let to = expressions(&rule.expressions).find_map(|(name, data)| match verdict(name, data)? {
                Verdict::Jump(to) | Verdict::Goto(to) => Some(to),
                _ => None,
            });
            chains.extend(to.filter(|to| !chains.contains(to)));
        }
        next += 1;
    }
    chains
}

/// The rules of the base chain's table, or of one chain of that.
fn list(socket: &mut Socket, base: &Chain, chain: Option<&str>) -> Result<Vec<ForeignRule>, NetlinkError> {
    let all = socket.list(
        |m| {
            let rules = m.dump("list rules", Kind::GetRule.number(), &nfgenmsg(base.number));
            rules.attr_str(NFTA_RULE_TABLE, &base.table);
            if let Some(chain) = chain {
                rules.attr_str(NFTA_RULE_CHAIN, chain);
            }
        },
        |kind, payload| if kind == Kind::NewRule.number() { parse(payload) } else { None },
    )?;
    // Old kernels list all chains.
    Ok(all.into_iter().filter(|rule| chain.is_none_or(|chain| rule.chain == chain)).collect())
}

fn parse(payload: &[u8]) -> Option<ForeignRule> {
    let mut rule = ForeignRule { chain: String::new(), expressions: Vec::new() };
    for (kind, value) in attributes(payload.get(4..)?) {
        match kind {
            NFTA_RULE_CHAIN => rule.chain = text(value),
            NFTA_RULE_EXPRESSIONS => rule.expressions = value.to_vec(),
            _ => {}
        }
    }
    Some(rule)
}

/// Names and data of the expressions.
fn expressions(list: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    attributes(list).map(|(_, expression)| {
        let part = |wanted| attributes(expression).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let name = part(NFTA_EXPR_NAME).unwrap_or_default();
        (name.strip_suffix(&[0]).unwrap_or(name), part(NFTA_EXPR_DATA).unwrap_or_default())
    })
}

/// The verdict of a rule without a condition. None also for a rule with an expression that is not known here.
fn unconditional(list: &[u8]) -> Option<Verdict> {
    for (name, data) in expressions(list) {
        if let Some(verdict) = verdict(name, data) {
            return Some(verdict);
        }
        let has_no_effect = match name {
            b"counter" | b"log" => true,
            b"match" => xt_name(data) == b"comment",
            b"target" => matches!(xt_name(data), b"LOG" | b"NFLOG"),
            _ => false,
        };
        if !has_no_effect {
            return None;
        }
    }
    None
}

/// Whether some packets return to the chain before.
fn may_return(list: &[u8]) -> bool {
    expressions(list).any(|(name, data)| verdict(name, data) == Some(Verdict::Return))
}

/// The verdict of an expression, if it always has one.
fn verdict(name: &[u8], data: &[u8]) -> Option<Verdict> {
    match name {
        b"reject" => Some(Verdict::Drop),
        b"target" => (xt_name(data) == b"REJECT").then_some(Verdict::Drop),
        b"immediate" => immediate(data),
        _ => None,
    }
}

fn immediate(data: &[u8]) -> Option<Verdict> {
    let (_, value) = attributes(data).find(|(kind, _)| *kind == NFTA_IMMEDIATE_DATA)?;
    let (_, value) = attributes(value).find(|(kind, _)| *kind == NFTA_DATA_VERDICT)?;
    let (_, code) = attributes(value).find(|(kind, _)| *kind == NFTA_VERDICT_CODE)?;
    let chain =
        || attributes(value).find(|(kind, _)| *kind == NFTA_VERDICT_CHAIN).map(|(_, name)| text(name));
    match number_in(code)? {
        NF_DROP => Some(Verdict::Drop),
        NF_ACCEPT => Some(Verdict::Accept),
        NFT_JUMP => chain().map(Verdict::Jump),
        NFT_GOTO => chain().map(Verdict::Goto),
        NFT_RETURN => Some(Verdict::Return),
        _ => None,
    }
}

fn xt_name(data: &[u8]) -> &[u8] {
    let name = attributes(data).find(|(kind, _)| *kind == NFTA_XT_NAME).map(|(_, name)| name);
    let name = name.unwrap_or_default();
    name.strip_suffix(&[0]).unwrap_or(name)
}
