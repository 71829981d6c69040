//! A folder with one small record per attached pod, read at the start.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crisp_executor::ids::PodId;
use crisp_operation::record::{self, Durability, RecordError};

use super::NetworkError;
use super::error::file;

/// A folder of records of one type.
#[derive(Debug, Clone)]
pub(super) struct RecordDir {
    dir: PathBuf,
    durability: Durability,
}

/// The common part of every record.
pub(super) trait Record: record::Record {
    fn pod(&self) -> &PodId;
}

impl RecordDir {
    /// Makes the folder if necessary.
    pub(super) fn open(dir: PathBuf, durability: Durability) -> Result<Self, NetworkError> {
        record::private_folder(&dir).map_err(file("create folder", &dir))?;
        Ok(Self { dir, durability })
    }

    /// All readable records. Invalid ones are renamed, so that one bad file only affects one pod; those that
    /// the disk refuses to read stay.
    pub(super) fn load<R: Record>(&self) -> Result<Loaded<R>, NetworkError> {
        let mut loaded = Loaded { records: Vec::new(), lost: BTreeSet::new() };
        for entry in fs::read_dir(&self.dir).map_err(file("list", &self.dir))? {
            let path = entry.map_err(file("list", &self.dir))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(stem) = name.strip_suffix(".json") else {
                loaded.lost.extend(pod_set_aside(&name));
                // Left by a server that was killed while it wrote: the file that it would replace is still
                // there.
                if name.ends_with(".json.new") {
                    record::remove_file(&path).map_err(file("remove", &path))?;
                }
                continue;
            };
            match read::<R>(&path, stem) {
                Ok(record) => {
                    loaded.records.push(record);
                    continue;
                }
                Err(Unread::Unusable(why)) => set_aside(&path, &why),
                Err(Unread::Refused(error)) => {
                    tracing::error!(%error, "a network record cannot be read: the pod's address or host ports may stay taken");
                }
            }
            loaded.lost.extend(PodId::parse(stem));
        }
        Ok(loaded)
    }

    /// Renames the pod's record, because something of the pod may be left.
    pub(super) fn set_aside(&self, pod: &PodId, why: &str) {
        set_aside(&self.path(pod), why);
    }

    /// Removes renamed records.
    pub(super) fn remove_lost(&self, pod: &PodId) -> Result<(), NetworkError> {
        for entry in fs::read_dir(&self.dir).map_err(file("list", &self.dir))? {
            let path = entry.map_err(file("list", &self.dir))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if pod_set_aside(&name).as_ref() == Some(pod) {
                record::remove_file(&path).map_err(file("remove", &path))?;
            }
        }
        self.remove(pod)
    }

    /// Writes or replaces the pod's record.
    pub(super) fn write<R: Record>(&self, record: &R) -> Result<(), RecordError> {
        record::write(&self.path(record.pod()), record, self.durability)
    }

    /// Replaces the pod's record, which was written before, with one that has more: a power cut may bring the earlier
    /// one back.
    pub(super) fn rewrite<R: Record>(&self, record: &R) -> Result<(), RecordError> {
        let durability = match self.durability {
            Durability::PowerCut => Durability::PowerCutOrEarlier,
            other => other,
        };
        record::write(&self.path(record.pod()), record, durability)
    }

    /// Removes the pod's record; it may be gone.
    pub(super) fn remove(&self, pod: &PodId) -> Result<(), NetworkError> {
        let path = self.path(pod);
        record::remove_file(&path).map_err(file("remove", &path))
    }

    fn path(&self, pod: &PodId) -> PathBuf {
        self.dir.join(format!("{pod}.json"))
    }
}

/// The content of a folder of records.
#[derive(Debug)]
pub(super) struct Loaded<R> {
    pub records: Vec<R>,
    /// The pods whose record cannot be used, including those since an earlier start.
    pub lost: BTreeSet<PodId>,
}

/// The pod of a renamed record: `<pod>.json.bad`, `<pod>.json.1.bad`.
fn pod_set_aside(name: &str) -> Option<PodId> {
    let (pod, _) = name.strip_suffix(".bad")?.split_once(".json")?;
    PodId::parse(pod).ok()
}

enum Unread {
    Unusable(String),
    /// The record may be valid.
    Refused(RecordError),
}

fn read<R: Record>(path: &Path, stem: &str) -> Result<R, Unread> {
    let record: R = record::read(path).map_err(|error| {
        if error.is_unusable() { Unread::Unusable(error.to_string()) } else { Unread::Refused(error) }
    })?;
    if record.pod().as_str() != stem {
        return Err(Unread::Unusable(format!("it is about pod {}", record.pod())));
    }
    Ok(record)
}

fn set_aside(path: &Path, why: &str) {
    let aside = record::set_aside(path);
    tracing::warn!(record = %path.display(), why, ?aside, "a network record is not readable and was set aside: the pod's address or host ports may stay taken");
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        pod: PodId,
    }

    impl record::Record for Sample {
        const KIND: &'static str = "sample";
    }

    impl Record for Sample {
        fn pod(&self) -> &PodId {
            &self.pod
        }
    }

    #[test]
    fn records_come_back_and_bad_ones_are_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        let records = RecordDir::open(folder.clone(), Durability::PowerCut).unwrap();
        let good = Sample { pod: PodId::random() };
        records.write(&good).unwrap();
        let newer = PodId::random();
        fs::write(folder.join(format!("{newer}.json")), format!(r#"{{"version":9,"pod":"{newer}"}}"#))
            .unwrap();
        fs::write(folder.join("torn.json"), "{").unwrap();
        fs::write(folder.join("killed.json.new"), "{").unwrap();
        // Simulates a disk that refuses to read.
        fs::create_dir(folder.join("refused.json")).unwrap();
        let unread = PodId::random();
        fs::create_dir(folder.join(format!("{unread}.json"))).unwrap();
        let lost = BTreeSet::from([newer.clone(), unread.clone()]);
        for _ in 0..2 {
            let loaded = records.load::<Sample>().unwrap();
            assert_eq!((loaded.records.len(), &loaded.records[0], &loaded.lost), (1, &good, &lost));
        }
        assert!(folder.join("torn.json.bad").exists());
        assert!(!folder.join("killed.json.new").exists());
        assert!(folder.join(format!("{newer}.json.bad")).exists());
        assert!(folder.join("refused.json").exists(), "it may be read by the next server");
        records.remove_lost(&newer).unwrap();
        assert_eq!(records.load::<Sample>().unwrap().lost, BTreeSet::from([unread]));
    }

    #[test]
    fn removing_twice_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let records = RecordDir::open(dir.path().to_owned(), Durability::Process).unwrap();
        let one = Sample { pod: PodId::random() };
        records.write(&one).unwrap();
        records.remove(&one.pod).unwrap();
        records.remove(&one.pod).unwrap();
        assert!(records.load::<Sample>().unwrap().records.is_empty());
    }
}
