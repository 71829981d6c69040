//! Writes one regular file of an archive.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use crisp_image_service::unpack::tar::{Entry, TarReader};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, StatxAttributes, StatxFlags, fstat, openat, renameat, statx, unlinkat,
};
use rustix::io::Errno;

use crate::CopyError;
use crate::attributes::Attributes;
use crate::root::{self, reopen};
use crate::source::{Source, content};

/// A block of zeros of this many bytes becomes a hole, because it may have been one in the original.
const HOLE: usize = 4096;

/// Makes or replaces a file and returns its size. An existing file of that name stays until the new one is
/// complete.
pub(crate) fn write(
    folder: &OwnedFd,
    name: &OsStr,
    path: &str,
    attributes: &Attributes,
    entry: &Entry,
    reader: &mut TarReader<'_, Source<impl Read>>,
) -> Result<u64, CopyError> {
    if let Some(there) = look_up(folder, name).map_err(CopyError::at(path))? {
        if there.kind == FileType::Directory {
            return Err(CopyError::InTheWay { path: path.to_owned() });
        }
        if there.is_mounted {
            // A mounted file such as /etc/hosts also keeps its attributes.
            let file = there.open_for_writing(path)?;
            return fill(&File::from(file), path, entry, reader);
        }
    }
    let random =
        getrandom::u64().map_err(|error| CopyError::at(path)(std::io::Error::other(error.to_string())))?;
    let temporary = format!(".crisp-cp-{random:016x}");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(folder, &temporary, flags, Mode::RUSR | Mode::WUSR).map_err(CopyError::at(path))?;
    let file = File::from(file);
    let written = fill(&file, path, entry, reader).and_then(|size| {
        attributes.give(&file).map_err(CopyError::at(path))?;
        renameat(folder, &temporary, folder, name).map_err(|errno| in_the_way(path, errno))?;
        Ok(size)
    });
    if written.is_err() {
        let _ = unlinkat(folder, &temporary, AtFlags::empty());
    }
    written
}

fn fill(
    file: &File,
    path: &str,
    entry: &Entry,
    reader: &mut TarReader<'_, Source<impl Read>>,
) -> Result<u64, CopyError> {
    let mut size = 0;
    content(reader, entry, |mut piece| {
        while !piece.is_empty() {
            let (is_hole, length) = run(piece);
            if !is_hole {
                file.write_all_at(&piece[..length], size).map_err(CopyError::at(path))?;
            }
            size += length as u64;
            piece = &piece[length..];
        }
        Ok(())
    })?;
    // A file that ends in a hole is still too short.
    file.set_len(size).map_err(CopyError::at(path))?;
    Ok(size)
}

/// Returns whether `piece` begins with zeros that become a hole, and the length of the hole, or of the data
/// before the next hole.
fn run(piece: &[u8]) -> (bool, usize) {
    let is_hole = |part: &[u8]| part.len() == HOLE && part.iter().all(|byte| *byte == 0);
    let first = piece.chunks(HOLE).next().is_some_and(is_hole);
    let same = piece.chunks(HOLE).take_while(|part| is_hole(part) == first);
    (first, same.map(<[u8]>::len).sum())
}

/// An existing file.
struct There {
    found: OwnedFd,
    kind: FileType,
    is_mounted: bool,
}

/// Returns None when there is no file of that name.
fn look_up(folder: &OwnedFd, name: &OsStr) -> Result<Option<There>, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = match openat(folder, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened?,
    };
    let kind = root::kind(&fstat(&found)?);
    let statx = statx(&found, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
    let is_mounted = statx.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    Ok(Some(There { found, kind, is_mounted }))
}

impl There {
    /// Opens the file and empties it.
    fn open_for_writing(&self, path: &str) -> Result<OwnedFd, CopyError> {
        if self.kind != FileType::RegularFile {
            return Err(CopyError::Mounted { path: path.to_owned() });
        }
        reopen(&self.found, OFlags::WRONLY | OFlags::TRUNC).map_err(CopyError::at(path))
    }
}

/// Removes the file of that name, unless it is a directory. A mounted file is not removed: in the mount
/// namespace of another process, the kernel would remove the mount together with the name.
pub(crate) fn clear(folder: &OwnedFd, name: &OsStr, path: &str) -> Result<(), CopyError> {
    match look_up(folder, name).map_err(CopyError::at(path))? {
        None => return Ok(()),
        Some(There { kind: FileType::Directory, .. }) => {
            return Err(CopyError::InTheWay { path: path.to_owned() });
        }
        Some(There { is_mounted: true, .. }) => return Err(CopyError::Mounted { path: path.to_owned() }),
        Some(_) => {}
    }
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(in_the_way(path, errno)),
    }
}

fn in_the_way(path: &str, errno: Errno) -> CopyError {
    match errno {
        Errno::ISDIR => CopyError::InTheWay { path: path.to_owned() },
        errno => CopyError::at(path)(errno),
    }
}
