//! The protocol between server and monitor. See the crate's page for its rules.

mod envelope;
mod exit;
mod failure;
pub mod packet;
pub mod request;
pub mod response;

pub use envelope::{Header, Kind, MalformedHeader, Op, PROTOCOL};
pub use exit::{BadRecord, Exit, ExitRecord, ExitStatus};
pub use failure::Failure;
pub use packet::{MAX_BODY, MAX_DESCRIPTORS, Packet, ReceiveError};
