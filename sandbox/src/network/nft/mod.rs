//! Packet rules of the built-in network, in our own nf_tables tables, over netlink.
//!
//! ```text
//! table ip crisp-<bridge>, and the same as table ip6 where pods have IPv6
//!   chain guard        prerouting, raw      from the bridge: only pod addresses, never to 127.0.0.0/8
//!   chain prerouting   prerouting, dstnat   to this host: host port -> pod          \  maps, so that
//!   chain output       output,     dstnat   from this host to itself: the same      /  a port is an element
//!   chain forward      forward, filter      from the bridge of another network: dropped, but for published ports;
//!                                           what `internal` and `icc` of the network forbid
//!   chain postrouting  postrouting, srcnat  pool -> elsewhere: masquerade, but for excluded destinations
//!                                           127.0.0.1 -> pod, pod -> itself by a host port: masquerade
//! ```
//!
//! The limit of separate tables: accepting a packet here does not keep another table from dropping it. If a
//! chain of the host drops packets that it does not know, forwarded ones or queries to the DNS responder, the
//! operator must allow them there; [`drops_unknown`] finds such chains for the network's status.
//!
//! Sources: linux/netfilter/nf_tables.h; nft(8) for the meaning of the rules.

mod chains;
mod elements;
mod expression;
mod foreign_rules;
mod intact;
mod message;
mod strays;
mod table;

pub(super) use chains::{Chain, Hook, chains};
pub(super) use elements::Published;
pub(super) use foreign_rules::{drops_unknown, names_interface};
pub(super) use intact::Installed;
pub(super) use table::{BRIDGES, Limits, Ruleset};
