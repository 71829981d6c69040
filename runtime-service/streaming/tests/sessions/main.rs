//! Sessions over real connections: the crate's own client and raw sockets against its server.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

mod deaths;
mod forward;
mod hostile;
mod limits;
mod memory;
mod process;
mod tls;
mod websocket;
