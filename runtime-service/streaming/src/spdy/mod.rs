//! SPDY/3.1, as far as kubelet, kubectl and crictl speak it: streams with headers, half close and flow
//! control.
//!
//! ```text
//!   peer ──bytes──> read task ─Decoder─> Queue ──> StreamReader
//!        <──bytes── Output <── data of any StreamWriter, waiting for its window
//!                      └────── control frames, by the flush task when nothing else is sent
//! ```
//!
//! - [`Connection`](connection::Connection) is what its streams share, [`State`](state::State) the protocol's
//!   state; [`Running`] owns the tasks and ends them.
//! - [`receive`] says what each frame of the peer leads to.
//! - [`Decoder`](frame::Decoder) and the encoders turn bytes into [`Frame`](frame::Frame)s and back, without any input or output.
//! - [`Inflater`](header_block::Inflater) reads headers that are compressed with the dictionary; its counterpart
//!   writes them in the same form, uncompressed.
//!
//! moby/spdystream, in kubelet, kubectl and crictl, neither announces windows nor heeds them. So windows are
//! heeded towards a peer from the first time that it announces one, and it has to heed ours from then on. Of a
//! peer without windows no more is read from the connection until there is room, within limits.

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
