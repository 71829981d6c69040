//! Streams over a WebSocket, as Kubernetes numbers them: the first byte of a message is its channel.
//!
//! - [`Running`] is a connection with its task; [`Channels`] describes its streams and their encoding.
//! - [`Tunnel`] carries the bytes of another protocol instead: SPDY, for port-forward.
//! - [`accept_key`] is the proof of the handshake; the framing itself is that of tokio-tungstenite.

mod connection;
mod handshake;
mod large;
mod reader;
mod running;
mod tunnel;

pub(crate) use connection::Channels;
pub(crate) use handshake::accept_key;
pub(crate) use large::LARGE;
pub(crate) use running::Running;
pub(crate) use tunnel::Tunnel;

use bytes::BytesMut;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use self::large::{Meter, Metered};
use crate::slots::OwnedSlots;
use crate::transport::Duplex;

/// The longest message, as in other servers. Most clients send 32 kB at once, some a megabyte and more.
const MAX_MESSAGE: usize = 32 << 20;

type Socket = WebSocketStream<Metered>;

/// The limits for messages of a peer.
pub(crate) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .read_buffer_size(32 << 10)
        .write_buffer_size(0)
}

/// `read`: bytes of the peer that have been read already.
async fn socket(io: Box<dyn Duplex>, read: BytesMut, large: OwnedSlots) -> (Socket, Meter) {
    let (io, meter) = Metered::new(io, large);
    (WebSocketStream::from_partially_read(io, read.to_vec(), Role::Server, Some(config())).await, meter)
}
