//! Deletions in a layer: converts the image specification's marker files to overlayfs' own marks.
//!
//! | in the archive | in the layer's folder |
//! |---|---|
//! | `d/.wh.NAME` | `d/NAME`, a character device 0/0 |
//! | `d/.wh..wh..opq` | the attribute `trusted.overlay.opaque=y` on `d` |
//! | other `.wh..wh.` names | nothing: they are aufs' bookkeeping |
//!
//! A marker refers to the layers below, wherever it is in the archive: it never removes content of the same
//! layer. A directory that has both a whiteout and an entry hides the one below it.
//! Sources: image-spec `layer.md`, "Whiteouts"; kernel `Documentation/filesystems/overlayfs.rst`.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;

use super::UnpackFault;

const PREFIX: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const AUFS: &[u8] = b".wh..wh.";

/// The meaning of a name in the archive.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EntryKind<'a> {
    /// A normal entry.
    Entry,
    /// `NAME` of the layers below is deleted.
    Whiteout(&'a [u8]),
    /// Everything in this folder of the layers below is deleted.
    Opaque,
    /// Ignored.
    Bookkeeping,
}

/// Parses a last component.
pub(super) fn entry_kind(name: &[u8]) -> Result<EntryKind<'_>, UnpackFault> {
    let Some(hidden) = name.strip_prefix(PREFIX) else { return Ok(EntryKind::Entry) };
    match hidden {
        _ if name == OPAQUE => Ok(EntryKind::Opaque),
        _ if name.starts_with(AUFS) => Ok(EntryKind::Bookkeeping),
        b"" | b"." | b".." => Err(UnpackFault::Whiteout),
        hidden => Ok(EntryKind::Whiteout(hidden)),
    }
}

/// Whether a path lies in one of aufs' own folders.
pub(super) fn in_bookkeeping(folder: &[u8]) -> bool {
    folder.split(|b| *b == b'/').any(|component| component.starts_with(AUFS))
}

/// Whether this is overlay's mark for a deletion.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Hides `name` of the layers below. Returns true when an inode was made for it.
pub(super) fn make_whiteout(folder: &OwnedFd, name: &[u8]) -> Result<bool, UnpackFault> {
    match rustix::fs::mknodat(folder, name, FileType::CharacterDevice, Mode::empty(), 0) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => {
            // An entry of this layer hides a file below; a directory would merge with it.
            let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            match rustix::fs::openat(folder, name, flags, Mode::empty()) {
                Ok(directory) => set_opaque(&directory)?,
                Err(Errno::NOTDIR | Errno::LOOP) => {}
                Err(e) => return Err(UnpackFault::at("look at what it hides")(e)),
            }
            Ok(false)
        }
        Err(e) => Err(UnpackFault::at("make a whiteout")(e)),
    }
}

/// Hides the content of this directory in the layers below.
pub(super) fn set_opaque(directory: impl AsFd) -> Result<(), UnpackFault> {
    rustix::fs::fsetxattr(directory, "trusted.overlay.opaque", b"y", XattrFlags::empty())
        .map_err(UnpackFault::at("mark a directory as opaque"))
}

/// Removes the whiteouts in a directory that became opaque: they have nothing left to hide, and overlay shows
/// them as broken names where it does not merge. Returns their number.
pub(super) fn remove_all(directory: &OwnedFd) -> Result<u64, UnpackFault> {
    let entries = rustix::fs::Dir::read_from(directory).map_err(UnpackFault::at("list a directory"))?;
    let mut removed = 0;
    for entry in entries {
        let entry = entry.map_err(UnpackFault::at("list a directory"))?;
        if !matches!(entry.file_type(), FileType::CharacterDevice | FileType::Unknown) {
            continue;
        }
        let stat = rustix::fs::statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(UnpackFault::at("look at a whiteout"))?;
        if is_whiteout(&stat) {
            rustix::fs::unlinkat(directory, entry.file_name(), AtFlags::empty())
                .map_err(UnpackFault::at("remove a whiteout"))?;
            removed += 1;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_the_specification_says() {
        for (name, expected) in [
            ("a", EntryKind::Entry),
            (".wha", EntryKind::Entry),
            ("x.wh.a", EntryKind::Entry),
            (".wh.a", EntryKind::Whiteout(b"a")),
            (".wh..a", EntryKind::Whiteout(b".a")),
            (".wh...a", EntryKind::Whiteout(b"..a")),
            (".wh..wh..opq", EntryKind::Opaque),
            (".wh..wh.plnk", EntryKind::Bookkeeping),
            (".wh..wh.aufs", EntryKind::Bookkeeping),
        ] {
            assert_eq!(entry_kind(name.as_bytes()).unwrap(), expected, "{name}");
        }
        for name in [".wh.", ".wh..", ".wh..."] {
            assert!(matches!(entry_kind(name.as_bytes()), Err(UnpackFault::Whiteout)), "{name}");
        }
    }
}
