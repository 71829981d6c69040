//! SPDY/3.1, as far as kubelet, kubectl and crictl speak it: streams with headers, half close and flow
//! control.
//!
//! ```text
//!   peer ──bytes──> read task ─Decoder─> Queue ──> StreamReader
//!        <──bytes── Output <── data of any StreamWriter, waiting for its window
//!                      └────── control frames, by the flush task when nothing else is sent
//! ```
//!
//! - [`Connection`](connection::Connection) is the protocol's state; [`Running`] owns its tasks and ends them.
//! - [`Decoder`](frame::Decoder) and the encoders turn bytes into [`Frame`](frame::Frame)s and back, without any input or output.
//! - [`Inflater`](header_block::Inflater) and its counterpart compress headers with the dictionary.
//!
//! moby/spdystream, in kubelet, kubectl and crictl, neither announces windows nor heeds them. So windows are
//! heeded towards a peer from the first time that it announces one; and of a peer that sends more than its
//! window, no more is read from the connection until there is room.

mod connection;
mod dictionary;
mod frame;
mod header_block;
mod output;
mod running;
mod windows;

pub(crate) use connection::{Connection, Incoming, Role};
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use frame::Decoder;
pub(crate) use header_block::Headers;
pub(crate) use running::Running;
