//! Sessions of exec, attach and port-forward with a streaming server, the same over each protocol of Kubernetes.
//!
//! ```text
//!  Process, Forward
//!     |       |
//!     |       +── SPDY, SPDY in a WebSocket, WebSocket v4 (ports are named in the request)
//!     +── SPDY v4, WebSocket v4 (no half closes) and v5
//!            |
//!          Endpoint ── TCP, or TLS over it
//! ```

mod forward;
mod process;

pub use forward::{Forward, ForwardProtocol};
pub use process::{Channel, Process, Protocol, Streams};
