//! The expressions of our rules. A rule is a list of them: each loads a value into a register, tests a
//! register (and ends the rule if the test fails) or changes the packet.

use std::net::IpAddr;

use ipnet::IpNet;

use super::message::Family;
use crate::network::netlink::Messages;

const NFTA_LIST_ELEM: u16 = 1;
pub(super) const NFTA_EXPR_NAME: u16 = 1;
pub(super) const NFTA_EXPR_DATA: u16 = 2;
pub(super) const NFTA_DATA_VALUE: u16 = 1;
pub(super) const NFTA_DATA_VERDICT: u16 = 2;
pub(super) const NFTA_VERDICT_CODE: u16 = 1;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_L4PROTO: u32 = 16;
const META_IIFGROUP: u32 = 21;
const CT_STATUS: u32 = 2;
const IPS_DST_NAT: u32 = 1 << 5;
const FIB_RESULT_ADDRTYPE: u32 = 3;
const FIB_F_DADDR: u32 = 2;
const RTN_LOCAL: u32 = 2;
const NAT_DNAT: u32 = 1;
const NAT_RANGE_ADDRESS_AND_PORT: u32 = 3;
const IFNAMSIZ: usize = 16;

/// The first of the 32-bit registers. An IPv6 address takes four of them.
const FIRST: u32 = 8;
const VERDICT: u32 = 0;

/// A test or an action; names follow nft(8).
#[derive(Debug, Clone, Copy)]
pub(super) enum Expression<'a> {
    /// `iifname == name`
    From(&'a str),
    /// `oifname == name`
    To(&'a str),
    /// `oifname != name`
    ToNot(&'a str),
    /// `ip saddr` lies in the network
    Source(IpNet),
    /// `ip saddr` does not
    SourceNot(IpNet),
    /// `ip daddr` lies in the network
    Destination(IpNet),
    /// `ip daddr` does not
    DestinationNot(IpNet),
    /// `fib daddr type local`: the packet is for this host
    ToThisHost,
    /// `ct status dnat`: its destination was rewritten
    Redirected,
    /// it was not
    NotRedirected,
    /// `iifgroup == group`
    FromGroup(u32),
    /// `iifname != name`
    FromNot(&'a str),
    /// `ip daddr . meta l4proto . th dport @set`
    AddressAndPortIn(&'a str),
    /// `dnat to ip daddr . meta l4proto . th dport map @map`; without a match the next rule applies
    RedirectByAddressAndPort(&'a str),
    /// `dnat to meta l4proto . th dport map @map`
    RedirectByPort(&'a str),
    /// `masquerade`
    Masquerade,
    /// `accept`
    Accept,
    /// `drop`
    Drop,
}

/// Writes the expressions into the open rule message.
pub(super) fn write(messages: &mut Messages, family: Family, expressions: &[Expression<'_>]) {
    for expression in expressions {
        expression.write(messages, family);
    }
}

impl Expression<'_> {
    fn write(self, m: &mut Messages, family: Family) {
        match self {
            Self::From(name) => interface(m, META_IIFNAME, CMP_EQ, name),
            Self::To(name) => interface(m, META_OIFNAME, CMP_EQ, name),
            Self::ToNot(name) => interface(m, META_OIFNAME, CMP_NEQ, name),
            Self::Source(net) => address(m, family.source_offset(), CMP_EQ, net),
            Self::SourceNot(net) => address(m, family.source_offset(), CMP_NEQ, net),
            Self::Destination(net) => address(m, family.destination_offset(), CMP_EQ, net),
            Self::DestinationNot(net) => address(m, family.destination_offset(), CMP_NEQ, net),
            Self::ToThisHost => {
                element(m, "fib", |m| {
                    m.attr_be32(1, FIRST).attr_be32(2, FIB_RESULT_ADDRTYPE).attr_be32(3, FIB_F_DADDR);
                });
                compare(m, CMP_EQ, &RTN_LOCAL.to_ne_bytes());
            }
            Self::Redirected => redirected(m, CMP_NEQ),
            Self::NotRedirected => redirected(m, CMP_EQ),
            Self::FromGroup(group) => {
                meta(m, FIRST, META_IIFGROUP);
                compare(m, CMP_EQ, &group.to_ne_bytes());
            }
            Self::FromNot(name) => interface(m, META_IIFNAME, CMP_NEQ, name),
            Self::AddressAndPortIn(set) => {
                load_address_and_port(m, family);
                look_up(m, set, false);
            }
            Self::RedirectByAddressAndPort(map) => {
                load_address_and_port(m, family);
                look_up(m, map, true);
                redirect(m, family);
            }
            Self::RedirectByPort(map) => {
                load_port(m, FIRST);
                look_up(m, map, true);
                redirect(m, family);
            }
            Self::Masquerade => element(m, "masq", |_| {}),
            Self::Accept => verdict(m, NF_ACCEPT),
            Self::Drop => verdict(m, NF_DROP),
        }
    }
}

/// Compares the mark of a rewritten destination with zero.
fn redirected(m: &mut Messages, operator: u32) {
    element(m, "ct", |m| {
        m.attr_be32(1, FIRST).attr_be32(2, CT_STATUS);
    });
    and(m, &IPS_DST_NAT.to_ne_bytes());
    compare(m, operator, &[0; 4]);
}

fn verdict(m: &mut Messages, code: u32) {
    element(m, "immediate", |m| {
        m.attr_be32(1, VERDICT).nest(2, |m| {
            m.nest(NFTA_DATA_VERDICT, |m| {
                m.attr_be32(NFTA_VERDICT_CODE, code);
            });
        });
    });
}

fn element(m: &mut Messages, name: &str, data: impl FnOnce(&mut Messages)) {
    m.nest(NFTA_LIST_ELEM, |m| {
        m.attr_str(NFTA_EXPR_NAME, name).nest(NFTA_EXPR_DATA, data);
    });
}

fn value(m: &mut Messages, kind: u16, bytes: &[u8]) {
    m.nest(kind, |m| {
        m.attr(NFTA_DATA_VALUE, bytes);
    });
}

/// Compares the first register.
fn compare(m: &mut Messages, operator: u32, bytes: &[u8]) {
    element(m, "cmp", |m| {
        value(m.attr_be32(1, FIRST).attr_be32(2, operator), 3, bytes);
    });
}

fn and(m: &mut Messages, mask: &[u8]) {
    let zero = [0; 16];
    element(m, "bitwise", |m| {
        m.attr_be32(1, FIRST).attr_be32(2, FIRST).attr_be32(3, mask.len() as u32);
        value(m, 4, mask);
        value(m, 5, &zero[..mask.len()]);
    });
}

fn payload(m: &mut Messages, register: u32, base: u32, offset: u32, length: u32) {
    element(m, "payload", |m| {
        m.attr_be32(1, register).attr_be32(2, base).attr_be32(3, offset).attr_be32(4, length);
    });
}

fn meta(m: &mut Messages, register: u32, key: u32) {
    element(m, "meta", |m| {
        m.attr_be32(1, register).attr_be32(2, key);
    });
}

fn interface(m: &mut Messages, key: u32, operator: u32, name: &str) {
    let mut padded = [0; IFNAMSIZ];
    padded.iter_mut().zip(name.bytes().take(IFNAMSIZ - 1)).for_each(|(to, from)| *to = from);
    meta(m, FIRST, key);
    compare(m, operator, &padded);
}

fn address(m: &mut Messages, offset: u32, operator: u32, network: IpNet) {
    let (base, mask) = (octets(network.network()), octets(network.netmask()));
    payload(m, FIRST, NETWORK_HEADER, offset, base.len() as u32);
    if network.prefix_len() < network.max_prefix_len() {
        and(m, &mask);
    }
    compare(m, operator, &base);
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Loads protocol and destination port into two registers, from `first` on.
fn load_port(m: &mut Messages, first: u32) {
    meta(m, first, META_L4PROTO);
    payload(m, first + 1, TRANSPORT_HEADER, 2, 2);
}

fn load_address_and_port(m: &mut Messages, family: Family) {
    payload(m, FIRST, NETWORK_HEADER, family.destination_offset(), family.address_length());
    load_port(m, FIRST + family.address_registers());
}

fn look_up(m: &mut Messages, set: &str, is_map: bool) {
    element(m, "lookup", |m| {
        m.attr_str(1, set).attr_be32(2, FIRST);
        if is_map {
            m.attr_be32(3, FIRST);
        }
    });
}

/// Sets a new destination: address in the first register, port after it.
fn redirect(m: &mut Messages, family: Family) {
    let port = FIRST + family.address_registers();
    element(m, "nat", |m| {
        m.attr_be32(1, NAT_DNAT).attr_be32(2, u32::from(family.number()));
        m.attr_be32(3, FIRST).attr_be32(4, FIRST);
        m.attr_be32(5, port).attr_be32(6, port).attr_be32(7, NAT_RANGE_ADDRESS_AND_PORT);
    });
}
