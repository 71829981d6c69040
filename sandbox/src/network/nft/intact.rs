//! Finds out whether our rules are still in the kernel.
//!
//! The kernel counts transactions: while that number is the same, no rule of any table has changed. Otherwise
//! the rules of our tables are listed. A rule counts as removed if its expressions are others: one that was
//! replaced keeps its number (handle).

use rustix::io::Errno;

use super::message::{Family, Kind, nfgenmsg};
use crate::network::fnv;
use crate::network::netlink::{NetlinkError, Socket, attributes};

const NFPROTO_UNSPEC: u8 = 0;
const NFTA_GEN_ID: u16 = 1;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_RULE_EXPRESSIONS: u16 = 4;

/// The rules of intact tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::network) struct Installed {
    /// The number of transactions when all rules were last seen.
    generation: Option<u32>,
    rules: Vec<Rule>,
}

impl Installed {
    /// The number of transactions when all rules were last seen.
    pub(in crate::network) fn generation(&self) -> Option<u32> {
        self.generation
    }
}

/// A rule's family, and a hash of its handle and its expressions.
type Rule = (Family, u64);

/// The rules just after they were installed; `count` of them were.
pub(super) fn load(
    socket: &mut Socket,
    families: &[Family],
    table: &str,
    count: usize,
) -> Result<Installed, NetlinkError> {
    let generation = generation(socket)?;
    let rules = list(socket, families, table)?;
    // If another program was as quick, the next check must find that.
    let is_complete = rules.len() == count;
    if is_complete {
        return Ok(Installed { generation: Some(generation), rules });
    }
    Ok(Installed { generation: None, rules: Vec::new() })
}

/// Whether all the rules are there. Remembers when it was so.
pub(super) fn check(
    socket: &mut Socket,
    families: &[Family],
    table: &str,
    installed: &mut Installed,
) -> Result<bool, NetlinkError> {
    // Read first: what changes during the list changes the number again.
    let generation = generation(socket)?;
    if installed.generation == Some(generation) {
        return Ok(true);
    }
    if installed.rules.is_empty() {
        return Ok(false);
    }
    let present = list(socket, families, table)?;
    if !installed.rules.iter().all(|rule| present.contains(rule)) {
        return Ok(false);
    }
    installed.generation = Some(generation);
    Ok(true)
}

fn generation(socket: &mut Socket) -> Result<u32, NetlinkError> {
    const STEP: &str = "look up the generation of packet rules";
    let found = socket.list(
        |m| {
            m.request(STEP, Kind::GetGeneration.number(), 0, &nfgenmsg(NFPROTO_UNSPEC));
        },
        |kind, payload| {
            if kind != Kind::NewGeneration.number() {
                return None;
            }
            let (_, value) = attributes(payload.get(4..)?).find(|(kind, _)| *kind == NFTA_GEN_ID)?;
            Some(u32::from_be_bytes(value.try_into().ok()?))
        },
    )?;
    found.first().copied().ok_or(NetlinkError::Malformed(STEP))
}

fn list(socket: &mut Socket, families: &[Family], table: &str) -> Result<Vec<Rule>, NetlinkError> {
    let mut all = Vec::new();
    for &family in families {
        let listed = socket.list(
            |m| {
                let request = m.dump("list our rules", Kind::GetRule.number(), &nfgenmsg(family.number()));
                request.attr_str(NFTA_RULE_TABLE, table);
            },
            |_, payload| {
                let parts = attributes(payload.get(4..)?)
                    .filter(|(kind, _)| matches!(*kind, NFTA_RULE_HANDLE | NFTA_RULE_EXPRESSIONS));
                let bytes: Vec<u8> = parts.flat_map(|(_, value)| value.iter().copied()).collect();
                Some((family, fnv::hash(&bytes)))
            },
        );
        match listed {
            Ok(rules) => all.extend(rules),
            // The whole table is gone.
            Err(NetlinkError::Refused { errno: Errno::NOENT, .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}
