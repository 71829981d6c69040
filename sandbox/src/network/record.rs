//! One small JSON file per attached pod: written whole and renamed, read back at start.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crisp_executor::id::PodId;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::NetworkError;

/// The only version there is yet; a record of another one is set aside.
pub(super) const VERSION: u32 = 1;

/// A folder of records of one type.
#[derive(Debug, Clone)]
pub(super) struct RecordDir {
    dir: PathBuf,
    durable: bool,
}

/// What every record has.
pub(super) trait Record: Serialize + DeserializeOwned {
    fn version(&self) -> u32;
    fn pod(&self) -> &PodId;
}

impl RecordDir {
    /// Makes the folder if need be. `durable` records survive the machine's fall, at the price of a sync.
    pub(super) fn open(dir: PathBuf, durable: bool) -> Result<Self, NetworkError> {
        make_folder(&dir)?;
        Ok(Self { dir, durable })
    }

    /// All readable records. Others are renamed out of the way, so that one bad file costs one pod.
    pub(super) fn load<R: Record>(&self) -> Result<Vec<R>, NetworkError> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(file("list", &self.dir))? {
            let path = entry.map_err(file("list", &self.dir))?.path();
            let Some(stem) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".json"))
            else {
                continue;
            };
            match read::<R>(&path, stem) {
                Ok(record) => records.push(record),
                Err(why) => set_aside(&path, &why),
            }
        }
        Ok(records)
    }

    /// Writes or replaces the pod's record.
    pub(super) fn write<R: Record>(&self, record: &R) -> Result<(), NetworkError> {
        write_whole(&self.path(record.pod()), record, self.durable)
    }

    /// Removes the pod's record; it may be gone.
    pub(super) fn remove(&self, pod: &PodId) -> Result<(), NetworkError> {
        remove_file(&self.path(pod))
    }

    fn path(&self, pod: &PodId) -> PathBuf {
        self.dir.join(format!("{pod}.json"))
    }
}

fn read<R: Record>(path: &Path, stem: &str) -> Result<R, String> {
    let bytes = fs::read(path).map_err(|e| e.to_string())?;
    let record: R = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    if record.version() != VERSION {
        return Err(format!("version {} is not known here", record.version()));
    }
    if record.pod().as_str() != stem {
        return Err(format!("it is about pod {}", record.pod()));
    }
    Ok(record)
}

fn set_aside(path: &Path, why: &str) {
    let aside = path.with_extension("bad");
    let moved = fs::rename(path, &aside);
    tracing::warn!(record = %path.display(), why, ?moved, "a network record is not readable and was set aside");
}

/// Makes a folder that only root reads.
pub(super) fn make_folder(dir: &Path) -> Result<(), NetworkError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(file("create folder", dir))
}

/// Writes `value` beside `path` and renames it there.
pub(super) fn write_whole(path: &Path, value: &impl Serialize, durable: bool) -> Result<(), NetworkError> {
    let new = path.with_extension("new");
    let bytes = serde_json::to_vec(value).map_err(|e| file("write", path)(e.into()))?;
    let written = (|| {
        let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        out.write_all(&bytes)?;
        if durable { out.sync_all() } else { Ok(()) }
    })();
    written.map_err(file("write", &new))?;
    fs::rename(&new, path).map_err(file("rename to", path))
}

/// Removes a file that may be gone.
pub(super) fn remove_file(path: &Path) -> Result<(), NetworkError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(file("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Names the file in an error.
pub(super) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NetworkError {
    let path = path.to_owned();
    move |source| NetworkError::File { what, path, source }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        version: u32,
        pod: PodId,
    }

    impl Record for Sample {
        fn version(&self) -> u32 {
            self.version
        }
        fn pod(&self) -> &PodId {
            &self.pod
        }
    }

    #[test]
    fn records_come_back_and_bad_ones_are_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let records = RecordDir::open(dir.path().join("a/b"), true).unwrap();
        let good = Sample { version: VERSION, pod: PodId::random() };
        let newer = Sample { version: VERSION + 1, pod: PodId::random() };
        records.write(&good).unwrap();
        records.write(&newer).unwrap();
        fs::write(dir.path().join("a/b/torn.json"), "{").unwrap();
        assert_eq!(records.load::<Sample>().unwrap(), [good]);
        assert!(dir.path().join("a/b/torn.bad").exists());
        assert!(dir.path().join("a/b").join(format!("{}.bad", newer.pod)).exists());
    }

    #[test]
    fn removing_twice_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let records = RecordDir::open(dir.path().to_owned(), false).unwrap();
        let one = Sample { version: VERSION, pod: PodId::random() };
        records.write(&one).unwrap();
        records.remove(&one.pod).unwrap();
        records.remove(&one.pod).unwrap();
        assert!(records.load::<Sample>().unwrap().is_empty());
    }
}
