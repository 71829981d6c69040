use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rustix::io::Errno;

use super::elements::{self, BY_ADDRESS, BY_PORT, Published, TARGETS};
use super::expression::{self, Expression as E};
use super::intact::{self, Installed};
use super::message::{APPEND, Family, Kind, NLM_F_CREATE, batch, start};
use super::strays::{self, Stray};
use crate::network::netlink::{Messages, NetlinkError, Socket};
use crate::network::pools::Pools;

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

/// nft(8)'s own numbers for types, six bits each in a concatenation. The kernel only stores them, for nft to
/// print elements.
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;
const PORT_KEY: (u32, u32) = (TYPE_PROTOCOL << 6 | TYPE_PORT, 8);

/// The group of the bridges of all servers: other programs number their groups from 1 on.
pub(in crate::network) const BRIDGES: u32 = 0x6372_6970;

/// The step that adds a rule.
const ADD_RULE: &str = "add rule";

const PREROUTING: u32 = 0;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;
const RAW: i32 = -300;
const DSTNAT: i32 = -100;
const SRCNAT: i32 = 100;
const FILTER: i32 = 0;

const LOOPBACK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
const LOOPBACK_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128);
/// Link-local addresses, and that of an interface without an address yet.
const NEIGHBOURS: [Ipv6Net; 2] = [
    Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128),
];

/// The tables of one bridge, one for each family of addresses.
#[derive(Debug, Clone)]
pub(in crate::network) struct Ruleset {
    name: String,
    bridge: String,
    limits: Limits,
    /// Destinations to which pods keep their address.
    not_masqueraded: Vec<IpNet>,
    tables: Vec<Table>,
}

/// Restrictions for pods of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::network) struct Limits {
    /// They cannot reach anything outside of the network.
    pub internal: bool,
    /// They cannot reach each other.
    pub apart: bool,
}

/// The table of one family.
#[derive(Debug, Clone, Copy)]
struct Table {
    family: Family,
    pool: IpNet,
}

impl Ruleset {
    pub(in crate::network) fn new(bridge: &str, pools: Pools, limits: Limits) -> Self {
        let v4 = Table { family: Family::V4, pool: pools.v4.into() };
        let v6 = pools.v6.map(|pool| Table { family: Family::V6, pool: pool.into() });
        let tables = [Some(v4), v6].into_iter().flatten().collect();
        Self {
            name: format!("crisp-{bridge}"),
            bridge: bridge.to_owned(),
            limits,
            not_masqueraded: Vec::new(),
            tables,
        }
    }

    /// The same, but for pods that keep their address towards these networks.
    pub(in crate::network) fn without_masquerade_to(self, networks: &[IpNet]) -> Self {
        Self { not_masqueraded: networks.to_vec(), ..self }
    }

    /// Installs the whole tables in one transaction, replacing existing ones with their names.
    pub(in crate::network) fn install(
        &self,
        socket: &mut Socket,
        ports: &[Published],
    ) -> Result<Installed, NetlinkError> {
        let messages = batch(|m| {
            for table in &self.tables {
                // Deleting a missing table is an error, so it is made first.
                self.table(m, table.family, "create table", Kind::NewTable, NLM_F_CREATE);
                self.table(m, table.family, "delete old table", Kind::DelTable, 0);
                self.table(m, table.family, "create table", Kind::NewTable, NLM_F_CREATE);
                self.sets(m, table.family);
                self.guard(m, table);
                self.redirections(m, table.family);
                self.forward(m, table.family);
                self.masquerade(m, table);
            }
            elements::change(m, Kind::NewElements, &self.name, ports);
        });
        let rules = messages.count(ADD_RULE);
        socket.run(messages)?;
        intact::load(socket, &self.families(), &self.name, rules)
    }

    /// Whether all rules of the tables are those that were installed. Other programs flush rule sets, tables
    /// and chains, and administrators add rules, which may stay.
    pub(in crate::network) fn is_intact(
        &self,
        socket: &mut Socket,
        installed: &mut Installed,
    ) -> Result<bool, NetlinkError> {
        intact::check(socket, &self.families(), &self.name, installed)
    }

    fn families(&self) -> Vec<Family> {
        self.tables.iter().map(|table| table.family).collect()
    }

    /// Whether the tables exist.
    pub(in crate::network) fn exists(&self, socket: &mut Socket) -> Result<bool, NetlinkError> {
        let mut messages = Messages::new();
        for table in &self.tables {
            self.table(&mut messages, table.family, "look up table", Kind::GetTable, 0);
        }
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
        socket.run(batch(|m| elements::change(m, Kind::NewElements, &self.name, ports)))
    }

    /// Removes ports; all of them must be published.
    pub(in crate::network) fn remove(
        &self,
        socket: &mut Socket,
        ports: &[Published],
    ) -> Result<(), NetlinkError> {
        socket.run(batch(|m| elements::change(m, Kind::DelElements, &self.name, ports)))
    }

    pub(in crate::network) fn name(&self) -> &str {
        &self.name
    }

    /// The elements that publish none of these ports.
    pub(in crate::network) fn strays(
        &self,
        socket: &mut Socket,
        ports: &[Published],
    ) -> Result<Vec<Stray>, NetlinkError> {
        let mut all = Vec::new();
        for table in &self.tables {
            all.extend(strays::list(socket, table.family, &self.name, ports)?);
        }
        Ok(all)
    }

    /// The ports that are not published, or only in part.
    pub(in crate::network) fn absent(
        &self,
        socket: &mut Socket,
        ports: &[Published],
    ) -> Result<Vec<Published>, NetlinkError> {
        let mut all = Vec::new();
        for table in &self.tables {
            all.extend(strays::absent(socket, table.family, &self.name, ports)?);
        }
        Ok(all)
    }

    /// Removes existing elements.
    pub(in crate::network) fn remove_strays(
        &self,
        socket: &mut Socket,
        strays: &[Stray],
    ) -> Result<(), NetlinkError> {
        if strays.is_empty() {
            return Ok(());
        }
        socket.run(batch(|m| strays::remove(m, &self.name, strays)))
    }

    /// Removes the tables, including that of an unused family; missing ones are ignored.
    pub(in crate::network) fn delete(&self, socket: &mut Socket) -> Result<(), NetlinkError> {
        let mut result = Ok(());
        for family in Family::ALL {
            match socket.run(batch(|m| self.table(m, family, "delete table", Kind::DelTable, 0))) {
                // A kernel without one of the families has no table of it.
                Err(NetlinkError::Refused { errno: Errno::NOENT | Errno::AFNOSUPPORT, .. }) => {}
                other => result = result.and(other),
            }
        }
        result
    }

    fn guard(&self, m: &mut Messages, table: &Table) {
        let (family, bridge) = (table.family, self.bridge.as_str());
        self.chain(m, family, "guard", ("filter", PREROUTING, RAW));
        match family {
            // route_localnet on the bridge is required for access to host ports through localhost; without
            // this rule it would allow every pod to connect to programs that listen on 127.0.0.1 of the host.
            Family::V4 => {
                self.rule(m, family, "guard", &[E::From(bridge), E::Destination(LOOPBACK.into()), E::Drop])
            }
            Family::V6 => {
                // Neighbour discovery uses these addresses.
                for net in NEIGHBOURS {
                    self.rule(m, family, "guard", &[E::From(bridge), E::Source(net.into()), E::Accept]);
                }
            }
        }
        self.rule(m, family, "guard", &[E::From(bridge), E::SourceNot(table.pool), E::Drop]);
    }

    fn redirections(&self, m: &mut Messages, family: Family) {
        for (chain, hook) in [("prerouting", PREROUTING), ("output", OUTPUT)] {
            self.chain(m, family, chain, ("nat", hook, DSTNAT));
            if family == Family::V6 && hook == OUTPUT {
                // The kernel accepts no response for ::1. Packets to it must be refused at once, so that
                // programs fall back to 127.0.0.1.
                self.rule(m, family, chain, &[E::Destination(LOOPBACK_V6.into()), E::Accept]);
            }
            self.rule(m, family, chain, &[E::ToThisHost, E::RedirectByAddressAndPort(BY_ADDRESS)]);
            self.rule(m, family, chain, &[E::ToThisHost, E::RedirectByPort(BY_PORT)]);
        }
    }

    fn forward(&self, m: &mut Messages, family: Family) {
        let bridge = self.bridge.as_str();
        self.chain(m, family, "forward", ("filter", FORWARD, FILTER));
        let foreign = [E::FromGroup(BRIDGES), E::FromNot(bridge), E::To(bridge), E::NotRedirected, E::Drop];
        self.rule(m, family, "forward", &foreign);
        if self.limits.internal {
            self.rule(m, family, "forward", &[E::From(bridge), E::ToNot(bridge), E::Drop]);
            self.rule(m, family, "forward", &[E::FromNot(bridge), E::To(bridge), E::Drop]);
        }
        if self.limits.apart {
            // The bridge isolates its ports; this rule is for a pod that sends through the host.
            self.rule(m, family, "forward", &[E::From(bridge), E::To(bridge), E::NotRedirected, E::Drop]);
        }
    }

    fn masquerade(&self, m: &mut Messages, table: &Table) {
        let (family, pool, bridge) = (table.family, table.pool, self.bridge.as_str());
        self.chain(m, family, "postrouting", ("nat", POSTROUTING, SRCNAT));
        if !self.limits.internal {
            let is_of_family = |net: &&IpNet| Family::of(net.addr()) == family;
            for net in self.not_masqueraded.iter().filter(is_of_family) {
                let kept = [E::ToNot(bridge), E::Source(pool), E::Destination(*net), E::Accept];
                self.rule(m, family, "postrouting", &kept);
            }
            // If bridged packets pass here too (br_netfilter), a pod's broadcasts keep their source.
            let outwards = [E::ToNot(bridge), E::Source(pool), E::DestinationNot(pool), E::Masquerade];
            self.rule(m, family, "postrouting", &outwards);
        }
        if family == Family::V4 {
            // A pod could not reply to 127.0.0.1, which is itself.
            let from_loopback = [E::To(bridge), E::Source(LOOPBACK.into()), E::Masquerade];
            self.rule(m, family, "postrouting", &from_loopback);
        }
        // A pod that reaches a pod through a host port must get its replies through the host too. Only for
        // our own ports: a service proxy's redirections keep their source address.
        let hairpin =
            [E::To(bridge), E::Source(pool), E::Redirected, E::AddressAndPortIn(TARGETS), E::Masquerade];
        self.rule(m, family, "postrouting", &hairpin);
    }

    fn table(&self, m: &mut Messages, family: Family, step: &'static str, kind: Kind, flags: u16) {
        start(m, family, step, kind, flags).attr_str(NFTA_TABLE_NAME, &self.name);
    }

    fn chain(&self, m: &mut Messages, family: Family, name: &str, (kind, hook, priority): (&str, u32, i32)) {
        start(m, family, "create chain", Kind::NewChain, NLM_F_CREATE)
            .attr_str(NFTA_CHAIN_TABLE, &self.name)
            .attr_str(NFTA_CHAIN_NAME, name)
            .nest(NFTA_CHAIN_HOOK, |m| {
                m.attr_be32(NFTA_HOOK_HOOKNUM, hook).attr_be32(NFTA_HOOK_PRIORITY, priority.cast_unsigned());
            })
            .attr_str(NFTA_CHAIN_TYPE, kind);
    }

    fn rule(&self, m: &mut Messages, family: Family, chain: &str, expressions: &[E<'_>]) {
        start(m, family, ADD_RULE, Kind::NewRule, APPEND)
            .attr_str(NFTA_RULE_TABLE, &self.name)
            .attr_str(NFTA_RULE_CHAIN, chain)
            .nest(NFTA_RULE_EXPRESSIONS, |m| expression::write(m, family, expressions));
    }

    fn sets(&self, m: &mut Messages, family: Family) {
        let (kind, length) = match family {
            Family::V4 => (TYPE_IPV4, family.address_length()),
            Family::V6 => (TYPE_IPV6, family.address_length()),
        };
        let address_key = (kind << 12 | PORT_KEY.0, length + PORT_KEY.1);
        let target = (kind << 6 | TYPE_PORT, length + 4);
        let sets = [
            (BY_PORT, PORT_KEY, Some(target)),
            (BY_ADDRESS, address_key, Some(target)),
            (TARGETS, address_key, None),
        ];
        // Different from those of other sets in one transaction.
        let ids = u32::from(family.number()) << 8..;
        for (id, (name, key, data)) in ids.zip(sets) {
            let set = start(m, family, "create set", Kind::NewSet, NLM_F_CREATE);
            set.attr_str(NFTA_SET_TABLE, &self.name).attr_str(NFTA_SET_NAME, name);
            set.attr_be32(NFTA_SET_ID, id);
            set.attr_be32(NFTA_SET_FLAGS, if data.is_some() { NFT_SET_MAP } else { 0 });
            set.attr_be32(NFTA_SET_KEY_TYPE, key.0).attr_be32(NFTA_SET_KEY_LEN, key.1);
            if let Some((kind, length)) = data {
                set.attr_be32(NFTA_SET_DATA_TYPE, kind).attr_be32(NFTA_SET_DATA_LEN, length);
            }
        }
    }
}
