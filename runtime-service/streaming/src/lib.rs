//! Streams between clients and containers, for `kubectl exec`, `attach` and `port-forward`. This crate knows
//! neither pods nor the CRI: the caller that offers a session handles its streams.
//!
//! ```text
//!  RPC Exec ──> StreamServer::process(request, serve) ──> one-time URL ──> kubelet, crictl, kubectl
//!                                                                             |
//!  serve(ProcessSession) <── streams, by name <── framing <── upgrade <── HTTP with the token
//!        |                        |                  SPDY/3.1
//!        |                 StreamReader, Writer      WebSocket (v1 to v5; SPDY within it)
//!        └──> finish(Outcome): exit code into the error stream, half closes, the end
//! ```
//!
//! - [`StreamServer`] listens and makes URLs: 128 random bits, valid for one minute and one use. It limits
//!   what is open, per owner and in total.
//! - [`ProcessSession`] is an exec or attach with all its streams; [`PortForwardSession`] has one pair of
//!   streams for each connection to a port.
//! - [`StreamReader`] and [`StreamWriter`] are the halves of a stream, with the same interface for each
//!   framing. Both wait when the other side is slow, and no buffer between them holds more than a window.
//! - [`client`] is the client's side, for the command line and for tests.
//! - `spdy` and `websocket` are the framings. All input of theirs may be hostile, so everything has a limit.
//!
//! Every task belongs to a session and ends with it; sessions end with the server. The client of a process
//! gets the end for as long as it is connected, however slowly it reads. A client that has received
//! everything and does not close the connection is disconnected.
//!
//! ```
//! use crisp_streaming::{Outcome, ProcessRequest, StreamConfig, StreamServer};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let server = StreamServer::open(&StreamConfig::default()).await.unwrap();
//! let request = ProcessRequest { stdin: true, stdout: true, stderr: false, tty: false };
//! // Sends back what comes.
//! let url = server.process("pod", "exec", request, |mut session| async move {
//!     let (Some(mut input), Some(mut output)) = (session.stdin.take(), session.stdout.take()) else { return };
//!     while let Ok(Some(bytes)) = input.read().await {
//!         if output.write(&bytes).await.is_err() {
//!             return;
//!         }
//!     }
//!     session.stdout = Some(output);
//!     session.finish(Outcome::Exited(0)).await;
//! });
//! assert!(url.unwrap().starts_with("http://127.0.0.1:"));
//! # }
//! ```

#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod carrier;
pub mod client;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod port_forward;
mod process;
mod server;
mod slots;
mod spdy;
mod stream;
mod tcp_table;
mod transport;
mod websocket;

pub use port_forward::{PortForwardSession, PortStream};
pub use process::{Outcome, ProcessRequest, ProcessSession, Resizes, Size};
pub use server::{OpenError, StreamConfig, StreamServer, TooManySessions};
pub use slots::Limit;
pub use stream::{Breakage, StreamError, StreamReader, StreamWriter};
