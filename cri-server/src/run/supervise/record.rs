//! The record of a supervised pod, kept until the pod is removed: its documents, written once, and beside
//! them its status.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crisp_operation::StatusCell;
use crisp_operation::record::{self, Durability, Record, RecordError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::manifest::{self, Manifests};
use super::super::run_status::RunStatus;
use crate::server::layout;

/// A pod with all objects that it needs.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct PodRecord {
    pub uid: String,
    /// The pod's own document.
    pub document: Value,
    /// The ConfigMaps, Secrets and PersistentVolumeClaims that it uses.
    pub objects: Vec<Value>,
    /// The origin of the manifests, for people.
    pub source: String,
    /// It waits for its first start by a client.
    #[serde(default)]
    pub is_created: bool,
}

impl Record for PodRecord {
    const KIND: &'static str = "standalone pod record";
}

/// Leaves out everything that may be a secret.
impl fmt::Debug for PodRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodRecord")
            .field("uid", &self.uid)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl PodRecord {
    /// Writes it beside the pod's folder, and removes the status of an earlier pod with the same uid.
    ///
    /// # Errors
    /// The file system's error, with the path.
    pub fn write(&self, pods: &Path) -> anyhow::Result<()> {
        record::private_folder(pods)?;
        record::remove_file(&layout::supervised_status(pods, &self.uid))?;
        Ok(record::write(&layout::supervised_record(pods, &self.uid), self, Durability::PowerCut)?)
    }

    /// The objects that it uses, then the pod.
    pub fn documents(&self) -> impl Iterator<Item = &Value> {
        self.objects.iter().chain([&self.document])
    }

    /// The folders in `volumes` of the named volumes that the pod mounts, by claims and by their paths. From its
    /// document alone, so that also a record with fields that this release refuses keeps its volumes.
    pub fn named_volumes(&self, volumes: &Path) -> Vec<PathBuf> {
        let namespace = self.document["metadata"]["namespace"].as_str().unwrap_or("default");
        let all = self.document["spec"]["volumes"].as_array().into_iter().flatten();
        let of_claim = |claim: &str| layout::claimed_volume(volumes, namespace, claim);
        let folder = |volume: &Value| {
            let claim = volume["persistentVolumeClaim"]["claimName"].as_str().map(of_claim);
            claim.or_else(|| Some(PathBuf::from(volume["hostPath"]["path"].as_str()?)))
        };
        all.filter_map(folder).filter(|path| path.starts_with(volumes)).collect()
    }

    /// The namespace and the name of the pod.
    pub fn name(&self) -> (&str, &str) {
        let text = |field: &str| self.document["metadata"][field].as_str();
        (text("namespace").unwrap_or("default"), text("name").unwrap_or(&self.uid))
    }

    /// The pod and the objects that it uses.
    ///
    /// # Errors
    /// The record was made by a release with fields that this one refuses.
    pub fn manifests(&self) -> anyhow::Result<Manifests> {
        let documents = self.documents().cloned().collect();
        let manifests = manifest::from_documents(&self.source, documents)?;
        anyhow::ensure!(manifests.pods.len() == 1, "the record of {} has no pod", self.uid);
        Ok(manifests)
    }
}

/// The status of the pod of that record.
///
/// # Errors
/// A status exists and cannot be read. Without it, Jobs would run twice.
pub fn status(pods: &Path, record: &PodRecord) -> Result<StatusCell<RunStatus>, RecordError> {
    let path = layout::supervised_status(pods, &record.uid);
    let is_created = record.is_created;
    let status = match record::read(&path) {
        Err(error) if error.is_missing() => {
            RunStatus { is_created, is_stopped: is_created, ..RunStatus::default() }
        }
        status => status?,
    };
    Ok(StatusCell::new(status, move |status| record::write(&path, status, Durability::PowerCut)))
}

/// Removes the record. The status is removed last: without it, the pod would run again.
///
/// # Errors
/// The file system's error, with the path.
pub fn remove(pods: &Path, uid: &str) -> anyhow::Result<()> {
    record::remove_file(&layout::supervised_record(pods, uid))?;
    Ok(record::remove_file(&layout::supervised_status(pods, uid))?)
}

/// The uids of all records in `pods`, each with the record or the reason why it cannot be read.
///
/// # Errors
/// The folder cannot be read.
pub fn read_all(pods: &Path) -> io::Result<Vec<(String, Result<PodRecord, RecordError>)>> {
    let entries = match std::fs::read_dir(pods) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        let uid = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.extension().is_some_and(|ending| ending == "json") {
            found.push((uid, record::read::<PodRecord>(&path)));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(uid: &str) -> PodRecord {
        let text =
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: a, image: b}]}";
        let document = manifest::parse("p", text).unwrap().pods.remove(0).document;
        let secret = serde_json::json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "s"},
            "stringData": {"key": "hunter2"}});
        PodRecord {
            uid: uid.into(),
            document,
            objects: vec![secret],
            source: "p.yaml".into(),
            is_created: false,
        }
    }

    #[test]
    fn a_record_is_a_pod_again_and_a_bad_one_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let record = record("u1");
        record.write(folder.path()).unwrap();
        let bad = layout::supervised_record(folder.path(), "u2");
        std::fs::write(&bad, "{").unwrap();
        let mut found = read_all(folder.path()).unwrap();
        found.sort_by_key(|(uid, _)| uid.clone());
        let (uids, mut records): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        assert_eq!(uids, ["u1", "u2"]);
        assert!(records.pop().unwrap().unwrap_err().is_unusable());
        let read = records.pop().unwrap().unwrap();
        assert_eq!(read, record);
        assert_eq!(read.manifests().unwrap().pods[0].pod.name, "p");
        assert!(!format!("{read:?}").contains("hunter2"));
    }

    #[test]
    fn the_volumes_of_a_pod_are_those_of_its_claims_and_paths() {
        let mut record = record("u1");
        record.document = serde_json::json!({ "metadata": {"name": "p", "namespace": "shop"}, "unknown": 1,
        "spec": { "volumes": [
            {"name": "a", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "b", "emptyDir": {}},
            {"name": "c", "hostPath": {"path": "/v/media/film"}}, {"name": "d", "hostPath": {"path": "/etc"}},
        ]}});
        let found = record.named_volumes(Path::new("/v"));
        assert_eq!(found, ["/v/shop_data", "/v/media/film"].map(PathBuf::from));
        assert_eq!(record.name(), ("shop", "p"));
        record.document["metadata"] = serde_json::json!({ "name": "p" });
        assert_eq!(record.named_volumes(Path::new("/v"))[0], Path::new("/v/data"));
    }

    #[test]
    fn a_status_is_read_again_and_ends_with_its_pod() {
        let folder = tempfile::tempdir().unwrap();
        record("u1").write(folder.path()).unwrap();
        let ended =
            |code| move |now: &RunStatus| Ok::<_, &str>(RunStatus { ended: Some(code), ..now.clone() });
        status(folder.path(), &record("u1")).unwrap().update(ended(3)).unwrap();
        assert_eq!(status(folder.path(), &record("u1")).unwrap().get().ended, Some(3));
        // The server died before it had removed everything.
        std::fs::remove_file(layout::supervised_record(folder.path(), "u1")).unwrap();
        record("u1").write(folder.path()).unwrap();
        assert_eq!(status(folder.path(), &record("u1")).unwrap().get().ended, None);
        let created = PodRecord { is_created: true, ..record("u1") };
        assert!(status(folder.path(), &created).unwrap().get().is_stopped, "it waits for its start");
        status(folder.path(), &created).unwrap().update(ended(0)).unwrap();
        let started = |now: &RunStatus| {
            Ok::<_, &str>(RunStatus { is_stopped: false, is_created: false, ..now.clone() })
        };
        status(folder.path(), &created).unwrap().update(started).unwrap();
        assert!(!status(folder.path(), &created).unwrap().get().is_stopped, "it was started");
        remove(folder.path(), "u1").unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
