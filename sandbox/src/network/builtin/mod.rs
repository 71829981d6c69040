//! The built-in network: one bridge, one address pool, no program but the kernel.
//!
//! ```text
//!   pod a                 pod b
//!   eth0 10.88.0.2        eth0 10.88.0.3
//!     |                     |
//!   cr<id a> ---- crisp0 ---- cr<id b>       crisp0 = 10.88.0.1, the pods' gateway
//!                    |
//!             nft table crisp-crisp0         masquerade, host ports
//!                    |
//!                  host
//! ```
//!
//! The bridge and the table come with the first pod. `net.ipv4.ip_forward` is turned on then and stays on:
//! others may have come to rely on it.

mod attach;
mod bridge;
mod detach;
mod ipam;
mod record;
mod setup;

pub(super) use attach::Builtin;
