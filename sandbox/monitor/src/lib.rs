//! What a server and a pod's monitor (`crisp-pod`) say to each other.
//!
//! ```text
//!  server                                         monitor
//!    | request: header, body, descriptors  ------>  |
//!    | <------  response: header with the same id   |
//!    | <------  event: header with id 0             |
//!    one SOCK_SEQPACKET message each, over <state>/pods/<id>/monitor.sock
//! ```
//!
//! A server may be newer or older than the monitor it finds after an upgrade. The header and the
//! bodies of the operations below [`wire::Op::FIRST_VERSIONED`] therefore never change; all others
//! need equal [`wire::PROTOCOL`] numbers and are refused with [`wire::Failure::Version`] otherwise.
//!
//! Cast: [`wire::Header`] and [`wire::Op`] are the envelope, [`wire::packet`] moves it,
//! [`wire::request`] and [`wire::response`] hold the bodies, [`wire::Failure`] is why not,
//! [`wire::ExitRecord`] is the file in which an exit outlives the monitor.
//!
//! ```
//! use crisp_monitor::wire::{Header, Op};
//! let header = Header::request(Op::Hello, 7);
//! assert_eq!(Header::parse(&header.to_bytes()).unwrap().id, 7);
//! ```

pub mod wire;
