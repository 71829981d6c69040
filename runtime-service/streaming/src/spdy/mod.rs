//! SPDY/3.1, as far as kubelet, kubectl and crictl use it: streams with headers, half close and flow control.
//!
//! ```text
//!   peer ──bytes──> read task ─Decoder─> Queue ──> StreamReader
//!        <──bytes── Output <── data of any StreamWriter, waiting for its window
//!                      └────── control frames, by the flush task when nothing else is sent
//! ```
//!
//! - [`Connection`](connection::Connection) is shared by its streams, [`State`](state::State) is the state of
//!   the protocol; [`Running`] owns the tasks and ends them.
//! - [`receive`] handles each frame of the peer.
//! - [`Decoder`](frame::Decoder) and the encoders convert between bytes and [`Frame`](frame::Frame)s, without
//!   any input or output.
//! - [`Inflater`](header_block::Inflater) decodes headers that are compressed with the dictionary; its
//!   counterpart writes them in the same format, uncompressed.
//!
//! moby/spdystream, in kubelet, kubectl and crictl, neither announces windows nor respects them. So windows
//! count towards a peer only after it has announced one, and from then on it must respect ours. When a peer
//! has no windows and a stream has no room, nothing more is read from the connection until there is room,
//! within limits.

mod connection;
mod dictionary;
mod frame;
mod header_block;
mod output;
mod receive;
mod running;
mod state;
#[cfg(test)]
mod tests;
mod windows;

pub(crate) use connection::{Connection, Incoming, Rules};
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use frame::Decoder;
pub(crate) use header_block::Headers;
#[cfg(feature = "fuzz")]
pub(crate) use header_block::Inflater;
pub(crate) use running::Running;
pub(crate) use state::Role;
