//! The connection below a session, in either framing.

use crate::spdy;
use crate::websocket;

/// A connection that carries streams; dropping it closes it at once.
pub(crate) enum Carrier {
    Spdy(spdy::Running),
    WebSocket(websocket::Running),
}

impl Carrier {
    /// Returns when the client is gone.
    pub(crate) async fn gone(&self) {
        match self {
            Self::Spdy(running) => running.gone().await,
            Self::WebSocket(running) => running.gone().await,
        }
    }

    /// Whether the client has closed the session properly (it was not lost) over a framing in which it could
    /// not close its input alone.
    pub(crate) fn is_closed(&self) -> bool {
        match self {
            // SPDY has half closes, and its clients wait for the end.
            Self::Spdy(_) => false,
            Self::WebSocket(running) => running.is_closed(),
        }
    }

    /// Sends all pending bytes, then closes.
    pub(crate) async fn finish(self) {
        match self {
            Self::Spdy(running) => running.finish().await,
            Self::WebSocket(running) => running.finish().await,
        }
    }
}
