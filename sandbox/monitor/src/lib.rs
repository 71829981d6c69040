//! The messages between a server and a pod's monitor (`crisp-pod`).
//!
//! ```text
//!  server                                         monitor
//!    | request: header, body, descriptors  ------>  |
//!    | <------  response: header with the same id   |
//!    | <------  event: header with id 0             |
//!    one SOCK_SEQPACKET message each, over <state>/pods/<id>/monitor.sock
//! ```
//!
//! After an upgrade a server finds monitors that are older than itself: [`wire`] has the rules for their
//! compatibility.
//!
//! Cast: [`wire::Header`] and [`wire::Op`] are the envelope, [`wire::packet`] sends it, [`wire::request`] and
//! [`wire::response`] are its content, [`wire::Failure`] is the reason for a refusal, [`wire::ExitRecord`] is
//! the file in which an exit outlives the monitor; [`fork_server`] starts monitors.
//!
//! ```
//! use crisp_monitor::wire::{Header, Op};
//! let header = Header::request(Op::Hello, 7);
//! assert_eq!(Header::parse(&header.to_bytes()).unwrap().id, 7);
//! ```

#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

/// The argument zero with which this program only keeps a systemd scope alive, until its standard input ends.
pub const SCOPE_HOLDER: &std::ffi::CStr = c"crisp-scope";

pub mod fork_server;
pub mod wire;
