//! The protocol between server and monitor.
//!
//! A pod lives for months, its server for days: either side may be older. The rules:
//!
//! - **The header** ([`Header`]) never changes.
//! - **The greeting names the monitor's protocol**; the server then writes in the older of that and its own.
//!   [`Op::Hello`], [`Op::Report`], [`Op::Signal`] and [`Op::Shutdown`] are served to any client, also to one
//!   with only a newer protocol.
//! - **Bodies only grow at their end**, by fields whose zero (false, none, empty) means the behaviour of the
//!   older side: it ignores them, and a newer reader reads zeros where an older writer wrote nothing. So all
//!   operations work in both directions, in all protocols. Elements of lists and variants of enums cannot grow;
//!   variants are only added at the end of an enum.
//! - **Plans** name their fields (MessagePack): types of the executor may grow anywhere, with
//!   `#[serde(default)]`. A monitor ignores unknown fields, so the author of a field decides whether an older
//!   monitor may ignore it; if it must not (because the plan would then confine less than requested), the
//!   server refuses the request by name: [`EncodeError::Unsupported`]. Protocol 1 is written by `v1.rs`, which
//!   does not compile until a new field is decided there.
//! - An older server cannot start or exec in a pod with a newer monitor ([`Failure::Version`]); all other
//!   operations work.
//!
//! [`PROTOCOL`] increases when a request must not reach an older reader unchanged. The bytes of protocol 1
//! are recorded in the tests.

mod codec;
mod envelope;
mod exit;
mod failure;
#[cfg(any(test, feature = "fuzz"))]
mod fuzz;
mod message;
pub mod packet;
mod plan;
pub mod request;
pub mod response;
#[cfg(test)]
mod tests;
mod v1;

pub use envelope::{Header, Kind, MalformedHeader, Op, PROTOCOL};
pub use exit::{BadRecord, Exit, ExitRecord, ExitStatus};
pub use failure::Failure;
#[cfg(any(test, feature = "fuzz"))]
pub use fuzz::fuzz_packet;
pub use message::{Message, Request, Response};
pub use packet::{MAX_BODY, MAX_DESCRIPTORS, Packet, ReceiveError};

use rustix::io::Errno;

/// A message that cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("the pod's monitor is older (protocol {protocol}) and does not support {what}: recreate the pod")]
    Unsupported { protocol: u16, what: &'static str },
    #[error("write the message: {reason}")]
    Format { reason: String },
    #[error("put the plan into memory: {}", std::io::Error::from(*errno))]
    Memory { errno: Errno },
}

/// Bytes or descriptors that are not the expected message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Malformed {
    pub reason: String,
}
