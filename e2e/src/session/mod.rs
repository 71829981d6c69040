//! Sessions of exec, attach and port-forward with a streaming server, the same over each protocol of Kubernetes.
//!
//! ```text
//!  Process, Forward
//!     |       |
//!     |       +── SPDY, SPDY in a WebSocket, WebSocket v4 (ports are named in the request)
//!     +── SPDY v1 to v4, WebSocket v1, v4 (no half closes) and v5
//!            |                    |
//!            |                 message: binary, or base64
//!            |
//!          Endpoint ── TCP, or TLS over it
//! ```

mod forward;
mod message;
mod process;
mod protocol;

pub use forward::{Forward, ForwardProtocol};
pub use process::{Channel, Process, Streams};
pub use protocol::Protocol;
