//! Records on disk: JSON, versioned, written whole beside their place and renamed into it.
//!
//! No fsync: a record must survive the server, not a power cut, which ends every container anyway;
//! one that a power cut tore is set aside at the next start.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Raised when a field changes its meaning; unknown fields of the same version are ignored.
const VERSION: u32 = 1;

/// Why a record cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("record {path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("record {path} is damaged: {source}", path = path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
    #[error("record {path} has version {found}, this server knows {VERSION}", path = path.display())]
    Version { path: PathBuf, found: u32 },
}

#[derive(Serialize)]
struct Written<'a, T> {
    version: u32,
    #[serde(flatten)]
    body: &'a T,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// Replaces the record at `path`, readable by root alone.
///
/// # Errors
/// [`RecordError::Io`]; what was there before is still there then.
pub fn write<T: Serialize>(path: &Path, body: &T) -> Result<(), RecordError> {
    let io = |source| RecordError::Io { path: path.to_owned(), source };
    let text = serde_json::to_vec(&Written { version: VERSION, body })
        .map_err(|source| RecordError::Damaged { path: path.to_owned(), source })?;
    let beside = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .map_err(io)?;
    file.write_all(&text).map_err(io)?;
    fs::rename(&beside, path).map_err(io)
}

/// Reads the record at `path`.
///
/// # Errors
/// Every [`RecordError`].
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, RecordError> {
    let text = fs::read(path).map_err(|source| RecordError::Io { path: path.to_owned(), source })?;
    let damaged = |source| RecordError::Damaged { path: path.to_owned(), source };
    let VersionOnly { version } = serde_json::from_slice(&text).map_err(damaged)?;
    if version != VERSION {
        return Err(RecordError::Version { path: path.to_owned(), found: version });
    }
    serde_json::from_slice(&text).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::super::state::State;
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.json");
        write(&path, &State::Starting).unwrap();
        write(&path, &State::Created).unwrap();
        assert_eq!(read::<State>(&path).unwrap(), State::Created);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside the record");
    }

    #[test]
    fn bad_records_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        assert!(matches!(read::<State>(&path), Err(RecordError::Io { .. })));
        fs::write(&path, "{\"version\":1,\"sta").unwrap();
        assert!(matches!(read::<State>(&path), Err(RecordError::Damaged { .. })));
        fs::write(&path, "{\"version\":2,\"state\":\"created\"}").unwrap();
        assert!(matches!(read::<State>(&path), Err(RecordError::Version { found: 2, .. })));
    }
}
