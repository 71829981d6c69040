//! A small synchronous netlink client: messages in one datagram out, their answers back.
//!
//! Everything asked here is answered by the kernel before `send` returns, so nothing needs a task of
//! its own; a whole pod is attached with four datagrams.
//! Sources: netlink(7), rtnetlink(7), linux/if_link.h, linux/rtnetlink.h.

mod address;
mod counters;
mod link;
mod message;
mod pod;
mod route;
mod socket;
mod veth;

pub(super) use address::{InterfaceAddress, add_address, addresses};
pub use counters::InterfaceCounters;
pub(super) use link::{
    BridgeLink, Link, create_bridge, delete_group, delete_link, link_by_index, link_by_name, links, rejoin,
    retire_link, wait_until_up,
};
pub(super) use message::{Messages, attributes};
pub(super) use pod::PodAddress;
pub use pod::PodNetlink;
pub(super) use route::routes;
pub use socket::NetlinkError;
pub(super) use socket::{Protocol, Socket};
pub(super) use veth::{VethPair, create_veth};
