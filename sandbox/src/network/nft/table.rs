use std::net::Ipv4Addr;

use rustix::io::Errno;

use super::elements::{self, BY_ADDRESS, BY_PORT, Published, TARGETS};
use super::expression::{self, Expression as E};
use super::message::{APPEND, Kind, NLM_F_CREATE, batch, start};
use crate::network::netlink::{Messages, NetlinkError, Socket};
use ipnet::Ipv4Net;

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DATA_TYPE: u16 = 6;
const NFTA_SET_DATA_LEN: u16 = 7;
const NFTA_SET_ID: u16 = 10;
const NFT_SET_MAP: u32 = 8;

/// nft(8)'s own numbers for types, six bits each in a concatenation. The kernel keeps them for nft to
/// print elements by.
const TYPE_ADDRESS: u32 = 7;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;
const PORT_KEY: (u32, u32) = (TYPE_PROTOCOL << 6 | TYPE_PORT, 8);
const ADDRESS_KEY: (u32, u32) = (TYPE_ADDRESS << 12 | TYPE_PROTOCOL << 6 | TYPE_PORT, 12);
const TARGET: (u32, u32) = (TYPE_ADDRESS << 6 | TYPE_PORT, 8);

const PREROUTING: u32 = 0;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;
const RAW: i32 = -300;
const DSTNAT: i32 = -100;
const SRCNAT: i32 = 100;

/// The table of one bridge.
#[derive(Debug, Clone)]
pub(in crate::network) struct Ruleset {
    table: String,
    bridge: String,
    pool: Ipv4Net,
}

impl Ruleset {
    pub(in crate::network) fn new(bridge: &str, pool: Ipv4Net) -> Self {
        Self { table: format!("crisp-{bridge}"), bridge: bridge.to_owned(), pool }
    }

    /// Puts the whole table in place, in one transaction, whatever was there under its name before.
    pub(in crate::network) fn install(
        &self,
        socket: &mut Socket,
        ports: &[Published],
    ) -> Result<(), NetlinkError> {
        socket.run(batch(|m| {
            // Deleting what is not there is an error, so it is made first.
            self.table(m, "create table", Kind::NewTable, NLM_F_CREATE);
            self.table(m, "delete old table", Kind::DelTable, 0);
            self.table(m, "create table", Kind::NewTable, NLM_F_CREATE);
            self.set(m, 1, BY_PORT, PORT_KEY, Some(TARGET));
            self.set(m, 2, BY_ADDRESS, ADDRESS_KEY, Some(TARGET));
            self.set(m, 3, TARGETS, ADDRESS_KEY, None);
            self.chains(m);
            elements::add(m, &self.table, ports);
        }))
    }

    /// Whether the table is there. Other programs flush whole rule sets.
    pub(in crate::network) fn exists(&self, socket: &mut Socket) -> Result<bool, NetlinkError> {
        let mut messages = Messages::new();
        self.table(&mut messages, "look up table", Kind::GetTable, 0);
        match socket.run(messages) {
            Ok(()) => Ok(true),
            Err(NetlinkError::Refused { errno: Errno::NOENT, .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Publishes more ports.
    pub(in crate::network) fn add(
        &self,
        socket: &mut Socket,
        ports: &[Published],
    ) -> Result<(), NetlinkError> {
        socket.run(batch(|m| elements::add(m, &self.table, ports)))
    }

    /// Withdraws ports; all of them must be published.
    pub(in crate::network) fn remove(
        &self,
        socket: &mut Socket,
        ports: &[Published],
    ) -> Result<(), NetlinkError> {
        socket.run(batch(|m| elements::remove(m, &self.table, ports)))
    }

    /// Removes the table; it may be gone already.
    pub(in crate::network) fn delete(&self, socket: &mut Socket) -> Result<(), NetlinkError> {
        match socket.run(batch(|m| self.table(m, "delete table", Kind::DelTable, 0))) {
            Err(NetlinkError::Refused { errno: Errno::NOENT, .. }) => Ok(()),
            other => other,
        }
    }

    fn chains(&self, m: &mut Messages) {
        let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
        let (bridge, pool) = (self.bridge.as_str(), self.pool);

        self.chain(m, "guard", "filter", PREROUTING, RAW);
        // route_localnet on the bridge, which localhost's access to host ports needs, would otherwise
        // open what listens on 127.0.0.1 of the host to every pod.
        self.rule(m, "guard", &[E::From(bridge), E::Destination(loopback), E::Drop]);
        self.rule(m, "guard", &[E::From(bridge), E::SourceNot(pool), E::Drop]);

        for (chain, hook) in [("prerouting", PREROUTING), ("output", OUTPUT)] {
            self.chain(m, chain, "nat", hook, DSTNAT);
            self.rule(m, chain, &[E::ToThisHost, E::RedirectByAddressAndPort(BY_ADDRESS)]);
            self.rule(m, chain, &[E::ToThisHost, E::RedirectByPort(BY_PORT)]);
        }

        self.chain(m, "postrouting", "nat", POSTROUTING, SRCNAT);
        // Where bridged packets pass here too (br_netfilter), a pod's broadcasts keep their source.
        let outwards = [E::ToNot(bridge), E::Source(pool), E::DestinationNot(pool), E::Masquerade];
        self.rule(m, "postrouting", &outwards);
        // A pod could not answer 127.0.0.1: that is itself.
        self.rule(m, "postrouting", &[E::To(bridge), E::Source(loopback), E::Masquerade]);
        // A pod that reaches a pod by a host port must get its answers through the host as well. Only our
        // own ports: a service proxy's redirections keep their source address.
        let hairpin =
            [E::To(bridge), E::Source(pool), E::Redirected, E::AddressAndPortIn(TARGETS), E::Masquerade];
        self.rule(m, "postrouting", &hairpin);
    }

    fn table(&self, m: &mut Messages, step: &'static str, kind: Kind, flags: u16) {
        start(m, step, kind, flags).attr_str(NFTA_TABLE_NAME, &self.table);
    }

    fn chain(&self, m: &mut Messages, name: &str, kind: &str, hook: u32, priority: i32) {
        start(m, "create chain", Kind::NewChain, NLM_F_CREATE)
            .attr_str(NFTA_CHAIN_TABLE, &self.table)
            .attr_str(NFTA_CHAIN_NAME, name)
            .nest(NFTA_CHAIN_HOOK, |m| {
                m.attr_be32(NFTA_HOOK_HOOKNUM, hook).attr_be32(NFTA_HOOK_PRIORITY, priority.cast_unsigned());
            })
            .attr_str(NFTA_CHAIN_TYPE, kind);
    }

    fn rule(&self, m: &mut Messages, chain: &str, expressions: &[E<'_>]) {
        start(m, "add rule", Kind::NewRule, APPEND)
            .attr_str(NFTA_RULE_TABLE, &self.table)
            .attr_str(NFTA_RULE_CHAIN, chain)
            .nest(NFTA_RULE_EXPRESSIONS, |m| expression::write(m, expressions));
    }

    fn set(&self, m: &mut Messages, id: u32, name: &str, key: (u32, u32), data: Option<(u32, u32)>) {
        let set = start(m, "create set", Kind::NewSet, NLM_F_CREATE);
        set.attr_str(NFTA_SET_TABLE, &self.table).attr_str(NFTA_SET_NAME, name).attr_be32(NFTA_SET_ID, id);
        set.attr_be32(NFTA_SET_FLAGS, if data.is_some() { NFT_SET_MAP } else { 0 });
        set.attr_be32(NFTA_SET_KEY_TYPE, key.0).attr_be32(NFTA_SET_KEY_LEN, key.1);
        if let Some((kind, length)) = data {
            set.attr_be32(NFTA_SET_DATA_TYPE, kind).attr_be32(NFTA_SET_DATA_LEN, length);
        }
    }
}
