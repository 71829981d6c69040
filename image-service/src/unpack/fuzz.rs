//! The parts of the unpacker for [`crate::fuzz`].

use std::io::BufRead;
use std::path::Path;

use super::stream;
use super::tar::{Entry, TarReader, check_pax};
use super::{Limits, unpack};
use crate::digest::Algorithm;

/// Reads an archive to its end or its first fault.
pub(crate) fn read_tar(mut bytes: &[u8]) {
    let limits = Limits::default();
    let mut entry = Entry::default();
    let mut archive = TarReader::new(&mut bytes, &limits);
    while matches!(archive.next(&mut entry), Ok(true)) {
        while let Ok(piece) = archive.content() {
            let length = piece.len();
            if length == 0 {
                break;
            }
            archive.consume(length);
        }
    }
}

/// Reads one pax extended header.
pub(crate) fn read_pax(bytes: &[u8]) {
    let _ = check_pax(bytes);
}

/// Decompresses and unpacks, with limits that keep a run short.
pub(crate) fn unpack_stream(bytes: &[u8], root: &Path) {
    let limits = Limits { entries: 1000, inodes: 1000, bytes: 1 << 20, ..Limits::default() };
    let _ = stream::run(bytes, Algorithm::Sha256, |content| {
        debug_assert!(content.fill_buf().is_ok());
        unpack(content, root, &root.with_extension("replaced"), &limits)
    });
}
