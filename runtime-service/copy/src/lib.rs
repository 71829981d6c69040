//! Files in and out of containers: a file or directory as a tar archive, and back, on both sides of
//! `crisp cp`.
//!
//! ```text
//!   crisp cp CONTAINER:PATH HOST     server: pack(container) ─> gRPC ─> unpack(host) :command line
//!   crisp cp HOST CONTAINER:PATH     server: unpack(container) <─ gRPC <─ pack(host) :command line
//! ```
//!
//! - [`Root`] is the start of paths: the root of the host, or of a container; no path leads out of it.
//! - [`pack`] writes an archive, [`unpack`] makes files from one, with the naming rules of `docker cp`.
//! - [`Owner`] is the owner of new files. Ids in an archive are those that the container sees. When its pod
//!   has a user namespace the host has other ids for them, and `act` makes files as the host's user that is
//!   root in the pod.
//!
//! The container may change its files during a copy, also with intent. So a path is resolved once, by the
//! kernel, inside the root; from there on everything is opened by descriptor, one name at a time, and no link
//! is followed. A file is opened for reading or writing only after the same descriptor has shown that it is a
//! regular file: no device and no pipe of a container is ever opened. Archives are read with the limits of
//! image layers.
//!
//! Not copied: devices, sockets, extended attributes; and /proc, /sys and similar file systems unless the
//! path names them. Holes of files are sent as zeros, and blocks of zeros become holes.
//!
//! ```
//! use crisp_copy::{Destination, Owner, Root, pack, unpack};
//!
//! let folder = tempfile::tempdir().unwrap();
//! let path = |name: &str| folder.path().join(name).display().to_string();
//! std::fs::write(path("one"), "text").unwrap();
//! let mut archive = Vec::new();
//! pack(&Root::Host, &path("one"), false, &mut archive).unwrap();
//! unpack(&archive[..], &Root::Host, Destination::Named(&path("two")), Owner::Maker).unwrap();
//! assert_eq!(std::fs::read_to_string(path("two")).unwrap(), "text");
//! ```

#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod act;
mod attributes;
mod destination;
mod error;
mod file;
mod kernel_files;
mod names;
mod pack;
mod root;
mod source;
#[cfg(test)]
mod tests;
mod tree;
mod unpack;

pub use attributes::Owner;
pub use destination::Destination;
pub use error::CopyError;
pub use pack::pack;
pub use root::{Root, Stopped};
pub use tree::Unpacked;
pub use unpack::unpack;

/// Directories nested deeper than this are refused: each open directory takes a descriptor.
const MAX_DEPTH: usize = 256;
