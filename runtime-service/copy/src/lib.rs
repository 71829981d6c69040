//! Files in and out of containers: a file or directory as a tar archive, and back, on both sides of
//! `crisp cp`.
//!
//! ```text
//!   crisp cp CONTAINER:PATH HOST     server: pack(container) ─> gRPC ─> unpack(host) :command line
//!   crisp cp HOST CONTAINER:PATH     server: unpack(container) <─ gRPC <─ pack(host) :command line
//! ```
//!
//! - [`Root`] is where paths begin: the host, or a container's root, out of which no path leads.
//! - [`pack`] writes an archive, [`unpack`] makes files of one, by the rules of `docker cp` for names.
//! - [`Owner`] is the owner of new files. In an archive ids are those of the container, also where its pod has
//!   a user namespace: the host has others then, and `act` makes files as the host's user that is root there.
//!
//! The container may change its files meanwhile, with intent. So a path is resolved once, by the kernel,
//! inside the root; from there on everything is opened by descriptor, one name at a time, and no link is
//! followed. What is opened to be read or written was found to be a regular file through the same descriptor:
//! no device and no pipe of a container is ever opened. Archives are read with the limits of image layers.
//!
//! Not copied: devices, sockets, extended attributes; /proc, /sys and their like unless they are asked for.
//! Holes of files are sent as zeros, and made again of them.
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

/// Directories nested deeper than this are refused: each one that is open takes a descriptor.
const MAX_DEPTH: usize = 256;
