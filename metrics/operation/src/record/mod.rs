//! Records on disk: JSON with a version, written to a file beside their place and renamed into it.
//!
//! A reader sees the old record or the new one, never a half. A server that is killed while it writes leaves
//! a file whose name ends with `.new` beside the record, with a part of the new content or all of the old: it
//! is never read, and the next write replaces it. Fields that a later release added are
//! ignored; a [version](Record::VERSION) is raised only when a field changes its meaning. A record that
//! cannot be read is set aside by its owner: see [`set_aside`]. The newest of those are kept: see
//! [`surplus_aside`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, RenameFlags, renameat_with};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::tree;

/// A type that can be stored as a record.
pub trait Record: Serialize + DeserializeOwned {
    /// The record's name in messages: `pod record`.
    const KIND: &'static str;
    const VERSION: u32 = 1;
}

/// The event that a record must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The end of the server, in whatever way: nothing is flushed, so that after a power cut a record of the
    /// last seconds may be empty. For what ends with the machine anyway.
    Process,
    /// A power cut, which may bring the earlier record back: the file is flushed, and the folder, which takes
    /// longer, is not. For what is written again with more in it.
    PowerCutOrEarlier,
    /// A power cut: file and folder are flushed before the call returns.
    PowerCut,
}

/// Why a record cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: not a {kind}: {source}", path.display())]
    Damaged { kind: &'static str, path: PathBuf, source: serde_json::Error },
    #[error("{}: {kind} of version {found}, this server reads up to {known}", path.display())]
    Newer { kind: &'static str, path: PathBuf, found: u32, known: u32 },
}

impl RecordError {
    /// There is no record at all.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether the content is of no use. Every other failure (EIO, EMFILE, ENOMEM) may be gone at the next
    /// try.
    #[must_use]
    pub fn is_unusable(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Newer { .. })
    }
}

#[derive(Serialize)]
struct Written<'a, R> {
    version: u32,
    #[serde(flatten)]
    record: &'a R,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Encodes a record.
///
/// # Errors
/// [`RecordError::Damaged`] for a value that JSON cannot hold.
pub fn encode<R: Record>(path: &Path, record: &R) -> Result<Vec<u8>, RecordError> {
    serde_json::to_vec(&Written { version: R::VERSION, record }).map_err(|source| RecordError::Damaged {
        kind: R::KIND,
        path: path.to_owned(),
        source,
    })
}

/// Replaces the record at `path`, readable by root alone. One writer at a time per path.
///
/// # Errors
/// The file system's error; the earlier file is unchanged.
pub fn write<R: Record>(path: &Path, record: &R, durability: Durability) -> Result<(), RecordError> {
    let bytes = encode(path, record)?;
    write_file(path, &bytes, 0o600, durability)
        .map_err(|source| RecordError::Io { path: path.to_owned(), source })
}

/// Writes the record of an object that is being made, in a folder that no reader opens before it is finished:
/// in place, because there is nothing to replace. The record is readable by root alone.
///
/// # Errors
/// The file system's error; a part of the record may be on disk.
pub fn write_draft<R: Record>(path: &Path, record: &R) -> Result<(), RecordError> {
    let bytes = encode(path, record)?;
    write_draft_file(path, &bytes, 0o600).map_err(|source| RecordError::Io { path: path.to_owned(), source })
}

/// Reads the record at `path`.
///
/// # Errors
/// Every [`RecordError`].
pub fn read<R: Record>(path: &Path) -> Result<R, RecordError> {
    let bytes = fs::read(path).map_err(|source| RecordError::Io { path: path.to_owned(), source })?;
    parse(path, &bytes)
}

/// Parses the record in `bytes`, which were read from `path`.
///
/// # Errors
/// [`RecordError::Damaged`], [`RecordError::Newer`].
pub fn parse<R: Record>(path: &Path, bytes: &[u8]) -> Result<R, RecordError> {
    let damaged = |source| RecordError::Damaged { kind: R::KIND, path: path.to_owned(), source };
    let Version { version } = serde_json::from_slice(bytes).map_err(damaged)?;
    if version > R::VERSION {
        let (path, known) = (path.to_owned(), R::VERSION);
        return Err(RecordError::Newer { kind: R::KIND, path, found: version, known });
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

/// Renames the file or folder at `path` so that it is out of the way but can be examined, and returns its new
/// path: `path` with `.bad`, and a number when that name is taken.
///
/// # Errors
/// The error of the rename.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let numbered = (1_u32..).map(|number| format!("{name}.{number}.bad"));
    for candidate in std::iter::once(format!("{name}.bad")).chain(numbered) {
        let aside = path.with_file_name(candidate);
        if aside.symlink_metadata().is_err() {
            fs::rename(path, &aside)?;
            return Ok(aside);
        }
    }
    Err(io::Error::other("no free name"))
}

/// How many of the records set aside in one folder are kept.
pub const KEPT_ASIDE: usize = 5;

/// Whether [`set_aside`] gives names of this form.
#[must_use]
pub fn is_aside(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "bad")
}

/// The paths among those set aside in one folder that may be deleted: all but the newest [`KEPT_ASIDE`],
/// which are enough as evidence. Pass only paths from earlier starts, so that a record that this start sets
/// aside stays until the next one.
#[must_use]
pub fn surplus_aside(aside: Vec<PathBuf>) -> Vec<PathBuf> {
    // The rename by `set_aside` was the last change.
    let changed = |path: &Path| path.symlink_metadata().ok().map(|data| (data.ctime(), data.ctime_nsec()));
    let mut dated: Vec<_> = aside.into_iter().map(|path| (changed(&path), path)).collect();
    dated.sort();
    dated.truncate(dated.len().saturating_sub(KEPT_ASIDE));
    dated.into_iter().map(|(_, path)| path).collect()
}

/// Writes `bytes` to a file beside `path` and renames it there. The mode does not depend on the umask.
///
/// # Errors
/// The file system's error. The earlier file at `path` is unchanged, and no temporary file is left.
pub fn write_file(path: &Path, bytes: &[u8], mode: u32, durability: Durability) -> io::Result<()> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let beside = path.with_file_name(format!("{name}.new"));
    let write = || {
        // The folder is opened before the rename, so that a failure to open it leaves the earlier file in
        // place.
        let folder = match (durability, path.parent()) {
            (Durability::PowerCut, Some(folder)) => Some(File::open(folder)?),
            _ => None,
        };
        let file = fill(&beside, bytes, mode)?;
        match durability {
            Durability::PowerCut | Durability::PowerCutOrEarlier => {
                file.sync_all()?;
                fs::rename(&beside, path)?;
            }
            Durability::Process => swap(&beside, path)?,
        }
        // The new content is what every reader sees from now on, so this is no failure: the disk will report
        // its error again, and a power cut before it recovers may bring the old content back.
        if let Some(Err(error)) = folder.map(|folder| folder.sync_all()) {
            tracing::error!(path = %path.display(), %error, "a record is written, but its folder cannot be flushed");
        }
        Ok(())
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

/// Renames `beside` to `path`. An earlier file is exchanged and then deleted: ext4 starts writing the new
/// content to the disk when a file is renamed over another one, which takes twice as long, and up to ten times
/// on a busy disk.
fn swap(beside: &Path, path: &Path) -> io::Result<()> {
    let exchanged = renameat_with(CWD, beside, CWD, path, RenameFlags::EXCHANGE);
    // There is no earlier file, or the file system cannot exchange.
    if exchanged.is_err() {
        return fs::rename(beside, path);
    }
    match fs::remove_file(beside) {
        // A folder was at `path`: it goes back there, and a rename over it fails.
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
            renameat_with(CWD, beside, CWD, path, RenameFlags::EXCHANGE)?;
            Err(error)
        }
        // The record is written; the next write replaces what is left beside it.
        Err(error) => {
            tracing::warn!(path = %beside.display(), %error, "the earlier content of a record cannot be deleted");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Writes `bytes` to a file of a thing that is being made, as [`write_draft`] does. The mode does not depend
/// on the umask.
///
/// # Errors
/// The file system's error; a part of the file may be on disk.
pub fn write_draft_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    fill(path, bytes, mode).map(drop)
}

fn fill(path: &Path, bytes: &[u8], mode: u32) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    Ok(file)
}

/// Makes a folder, and its missing parents, for root alone.
///
/// # Errors
/// The file system's error, with the path.
pub fn private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| named(path, &error))
}

/// Removes a folder with its whole content, however deep. A missing folder is not an error.
///
/// # Errors
/// The file system's error, with the path.
pub fn remove_folder(path: &Path) -> io::Result<()> {
    match tree::delete(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(named(path, &error)),
        _ => Ok(()),
    }
}

/// Removes a file. A missing file is not an error.
///
/// # Errors
/// The file system's error, with the path.
pub fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(named(path, &error)),
        _ => Ok(()),
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
