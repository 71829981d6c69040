//! A small synchronous netlink client: sends messages in one datagram and receives their responses.
//!
//! The kernel answers all requests here before `send` returns, so no task is needed; a whole pod is attached
//! with four datagrams. Why not netlink-packet-route, which netavark uses: it is well kept and free of unsafe
//! code, but has 34,000 lines with netlink-packet-core (ours are 1,000), and each release before 1.0 changes
//! its types. The encoder in `message.rs` would have to stay beside it, because it has neither nf_tables nor
//! conntrack, and for rtnetlink it saves nothing: a message in its enums is as long as in our attributes, and
//! our datagrams of several messages with one error each (`step`, `optional`) would still be ours.
//!
//! Sources: netlink(7), rtnetlink(7), linux/if_link.h, linux/rtnetlink.h.

mod address;
mod counters;
mod link;
mod message;
mod neighbour;
mod pod;
mod qdisc;
mod route;
mod socket;
mod veth;

pub(super) use address::{InterfaceAddress, add_address, addresses};
pub use counters::InterfaceCounters;
pub(super) use link::{
    BridgeLink, Link, create_bridge, delete_group, delete_link, link_by_index, link_by_name, links, rejoin,
    retire_link, set_group, wait_until_up,
};
pub(super) use message::{Messages, attributes};
pub use pod::PodNetlink;
pub(super) use pod::{PodAddress, PodInterface, limit_by_name};
pub(super) use route::{Route, ip_of, routes};
pub use socket::NetlinkError;
pub(super) use socket::{Protocol, Socket};
pub(super) use veth::{VethPair, create_veth};
