//! The expressions our rules are made of. A rule is a list of them: each loads something into a register,
//! tests a register (and ends the rule if the test fails) or does something to the packet.

use std::net::Ipv4Addr;

use crate::network::netlink::Messages;
use ipnet::Ipv4Net;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
pub(super) const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NF_DROP: u32 = 0;
const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_L4PROTO: u32 = 16;
const CT_STATUS: u32 = 2;
const IPS_DST_NAT: u32 = 1 << 5;
const FIB_RESULT_ADDRTYPE: u32 = 3;
const FIB_F_DADDR: u32 = 2;
const RTN_LOCAL: u32 = 2;
const NAT_DNAT: u32 = 1;
const NAT_RANGE_ADDRESS_AND_PORT: u32 = 3;
const IFNAMSIZ: usize = 16;

/// 32-bit registers. The first four of them overlay the one called NFT_REG_1.
const REGISTERS: [u32; 3] = [8, 9, 10];
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
    Source(Ipv4Net),
    /// `ip saddr` does not
    SourceNot(Ipv4Net),
    /// `ip daddr` lies in the network
    Destination(Ipv4Net),
    /// `ip daddr` does not
    DestinationNot(Ipv4Net),
    /// `fib daddr type local`: the packet is for this host
    ToThisHost,
    /// `ct status dnat`: its destination was rewritten
    Redirected,
    /// `ip daddr . meta l4proto . th dport @set`
    AddressAndPortIn(&'a str),
    /// `dnat to ip daddr . meta l4proto . th dport map @map`; no match goes on with the next rule
    RedirectByAddressAndPort(&'a str),
    /// `dnat to meta l4proto . th dport map @map`
    RedirectByPort(&'a str),
    /// `masquerade`
    Masquerade,
    /// `drop`
    Drop,
}

/// Writes the expressions into the open rule message.
pub(super) fn write(messages: &mut Messages, expressions: &[Expression<'_>]) {
    for expression in expressions {
        expression.write(messages);
    }
}

impl Expression<'_> {
    fn write(self, m: &mut Messages) {
        match self {
            Self::From(name) => interface(m, META_IIFNAME, CMP_EQ, name),
            Self::To(name) => interface(m, META_OIFNAME, CMP_EQ, name),
            Self::ToNot(name) => interface(m, META_OIFNAME, CMP_NEQ, name),
            Self::Source(net) => address(m, SADDR, CMP_EQ, net),
            Self::SourceNot(net) => address(m, SADDR, CMP_NEQ, net),
            Self::Destination(net) => address(m, DADDR, CMP_EQ, net),
            Self::DestinationNot(net) => address(m, DADDR, CMP_NEQ, net),
            Self::ToThisHost => {
                element(m, "fib", |m| {
                    m.attr_be32(1, REGISTERS[0]).attr_be32(2, FIB_RESULT_ADDRTYPE).attr_be32(3, FIB_F_DADDR);
                });
                compare(m, CMP_EQ, &RTN_LOCAL.to_ne_bytes());
            }
            Self::Redirected => {
                element(m, "ct", |m| {
                    m.attr_be32(1, REGISTERS[0]).attr_be32(2, CT_STATUS);
                });
                and(m, &IPS_DST_NAT.to_ne_bytes());
                compare(m, CMP_NEQ, &[0; 4]);
            }
            Self::AddressAndPortIn(set) => {
                load_address_and_port(m);
                look_up(m, set, false);
            }
            Self::RedirectByAddressAndPort(map) => {
                load_address_and_port(m);
                look_up(m, map, true);
                redirect(m);
            }
            Self::RedirectByPort(map) => {
                load_port(m, 0);
                look_up(m, map, true);
                redirect(m);
            }
            Self::Masquerade => element(m, "masq", |_| {}),
            Self::Drop => element(m, "immediate", |m| {
                m.attr_be32(1, VERDICT).nest(2, |m| {
                    m.nest(NFTA_DATA_VERDICT, |m| {
                        m.attr_be32(NFTA_VERDICT_CODE, NF_DROP);
                    });
                });
            }),
        }
    }
}

/// Offsets in the IPv4 header.
const SADDR: u32 = 12;
const DADDR: u32 = 16;

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
        value(m.attr_be32(1, REGISTERS[0]).attr_be32(2, operator), 3, bytes);
    });
}

fn and(m: &mut Messages, mask: &[u8; 4]) {
    element(m, "bitwise", |m| {
        m.attr_be32(1, REGISTERS[0]).attr_be32(2, REGISTERS[0]).attr_be32(3, 4);
        value(m, 4, mask);
        value(m, 5, &[0; 4]);
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
    meta(m, REGISTERS[0], key);
    compare(m, operator, &padded);
}

fn address(m: &mut Messages, offset: u32, operator: u32, network: Ipv4Net) {
    payload(m, REGISTERS[0], NETWORK_HEADER, offset, 4);
    if network.prefix_len() < 32 {
        and(m, &network.netmask().octets());
    }
    let base: Ipv4Addr = network.network();
    compare(m, operator, &base.octets());
}

/// Protocol and destination port into two registers, from the `first` on.
fn load_port(m: &mut Messages, first: usize) {
    meta(m, REGISTERS[first], META_L4PROTO);
    payload(m, REGISTERS[first + 1], TRANSPORT_HEADER, 2, 2);
}

fn load_address_and_port(m: &mut Messages) {
    payload(m, REGISTERS[0], NETWORK_HEADER, DADDR, 4);
    load_port(m, 1);
}

fn look_up(m: &mut Messages, set: &str, is_map: bool) {
    element(m, "lookup", |m| {
        m.attr_str(1, set).attr_be32(2, REGISTERS[0]);
        if is_map {
            m.attr_be32(3, REGISTERS[0]);
        }
    });
}

/// New destination: address in the first register, port in the second.
fn redirect(m: &mut Messages) {
    element(m, "nat", |m| {
        m.attr_be32(1, NAT_DNAT).attr_be32(2, u32::from(super::message::NFPROTO_IPV4));
        m.attr_be32(3, REGISTERS[0]).attr_be32(4, REGISTERS[0]);
        m.attr_be32(5, REGISTERS[1]).attr_be32(6, REGISTERS[1]).attr_be32(7, NAT_RANGE_ADDRESS_AND_PORT);
    });
}
