//! The record of a pod on disk, `pod.json`.
//!
//! The record is written before anything of the pod exists, so that everything that a crash leaves has an
//! owner. It is not flushed to the disk: after a power cut no pod runs.

use std::fs;
use std::path::PathBuf;

use crisp_executor::ids::PodId;
use crisp_operation::clock;
use crisp_operation::record::{self, Durability, Record, RecordError};
use serde::{Deserialize, Serialize};

use super::cgroups::{CgroupDriver, PodCgroups};
use super::state::PodStatus;
use crate::config::PodConfig;
use crate::layout::Layout;

/// The fixed part of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodMetadata {
    pub id: PodId,
    pub config: PodConfig,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// The boot in which the monitor was started: it cannot exist in another one.
    pub boot_id: String,
    /// The driver of the server that made the pod. Older records lack it: there was no choice.
    #[serde(default)]
    pub cgroup_driver: CgroupDriver,
}

/// Everything that is recorded about a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRecord {
    #[serde(flatten)]
    pub metadata: PodMetadata,
    #[serde(flatten)]
    pub status: PodStatus,
}

impl Record for PodRecord {
    const KIND: &'static str = "pod record";
}

/// The reason why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("{}: describes pod {found}, not the pod that its folder is named after", path.display())]
    Misplaced { path: PathBuf, found: PodId },
}

impl LoadError {
    /// Whether there is no record at all.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Record(error) if error.is_missing())
    }

    /// Whether the disk or the kernel refused; the record may be valid.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Record(error) if !error.is_missing() && !error.is_unusable())
    }
}

impl PodMetadata {
    /// The record of a new pod.
    #[must_use]
    pub fn new(id: PodId, config: PodConfig, cgroup_driver: CgroupDriver) -> Self {
        Self { id, config, created_at: clock::now(), boot_id: clock::boot_id().to_owned(), cgroup_driver }
    }

    /// A parent that is too long for cgroups below it is refused when a pod is made: such a record was
    /// changed by hand, and has no cgroups.
    pub(crate) fn cgroups(&self) -> PodCgroups {
        let of = |named| PodCgroups::of(&self.id, named, self.cgroup_driver);
        let cgroups = of(self.config.cgroup_parent.as_ref()).or_else(|_| of(None));
        #[expect(clippy::expect_used, reason = "the names are ours and an id is 64 hexadecimal digits")]
        cgroups.expect("valid by construction")
    }

    /// Whether the pod was made since the machine was started.
    #[must_use]
    pub fn is_of_this_boot(&self) -> bool {
        self.boot_id == clock::boot_id()
    }
}

impl PodRecord {
    /// Replaces the record on disk.
    ///
    /// # Errors
    /// The old record is still on disk then.
    pub fn save(&self, layout: &Layout) -> Result<(), RecordError> {
        record::write(&layout.record(&self.metadata.id), self, Durability::Process)
    }

    /// Reads the record of `pod`.
    ///
    /// # Errors
    /// Missing, unreadable, of a later version, or of another pod.
    pub fn load(layout: &Layout, pod: &PodId) -> Result<Self, LoadError> {
        let path = layout.record(pod);
        let record: Self = record::read(&path)?;
        if record.metadata.id != *pod {
            return Err(LoadError::Misplaced { path, found: record.metadata.id });
        }
        Ok(record)
    }

    /// The configuration in a record that is not valid as a whole, if that part can be read, and the driver
    /// of its cgroups.
    #[must_use]
    pub fn salvage_config(layout: &Layout, pod: &PodId) -> Option<(PodConfig, CgroupDriver)> {
        let text = fs::read(layout.record(pod)).ok()?;
        let mut value: serde_json::Value = serde_json::from_slice(&text).ok()?;
        if value.get("id")?.as_str()? != pod.as_str() {
            return None;
        }
        let config = serde_json::from_value(value.get_mut("config")?.take()).ok()?;
        let driver = value.get_mut("cgroup_driver").map(serde_json::Value::take);
        Some((config, driver.and_then(|driver| serde_json::from_value(driver).ok()).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::pod;
    use crate::pod::state::PodState;

    fn saved() -> (tempfile::TempDir, Layout, PodRecord) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path(), dir.path());
        let metadata = PodMetadata::new(PodId::random(), pod("web"), CgroupDriver::Systemd);
        let status = PodStatus::starting().ready(7, &["10.88.0.2".parse().unwrap()]).unwrap();
        let record = PodRecord { metadata, status };
        record::private_folder(&layout.pod_root(&record.metadata.id)).unwrap();
        record.save(&layout).unwrap();
        (dir, layout, record)
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let (_dir, layout, record) = saved();
        assert_eq!(PodRecord::load(&layout, &record.metadata.id).unwrap(), record);
        assert!(record.metadata.is_of_this_boot());
    }

    #[test]
    fn records_of_the_first_release_are_read() {
        let (_dir, layout, record) = saved();
        let path = layout.record(&record.metadata.id);
        let mut old = serde_json::json!({
            "version": 1, "created_at": 5, "state": "lost", "ips": [], "monitor_pid": null, "boot_id": "b",
        });
        old["id"] = record.metadata.id.as_str().into();
        old["config"] = serde_json::to_value(&record.metadata.config).unwrap();
        fs::write(path, old.to_string()).unwrap();
        let read = PodRecord::load(&layout, &record.metadata.id).unwrap();
        assert_eq!((read.status.state, read.metadata.created_at), (PodState::Lost, 5));
        assert_eq!(read.metadata.cgroup_driver, CgroupDriver::Cgroupfs);
    }

    #[test]
    fn damage_is_named_with_its_path_and_the_configuration_saved_from_a_newer_one() {
        let (_dir, layout, record) = saved();
        let id = &record.metadata.id;
        let path = layout.record(id);
        let newer = fs::read_to_string(&path).unwrap().replacen("\"version\":1", "\"version\":9", 1);
        fs::write(&path, newer.replace("\"ready\"", "\"asleep\"")).unwrap();
        assert!(PodRecord::load(&layout, id).unwrap_err().to_string().contains("version 9"));
        assert_eq!(
            PodRecord::salvage_config(&layout, id),
            Some((record.metadata.config, CgroupDriver::Systemd))
        );
        fs::write(&path, b"").unwrap();
        let error = PodRecord::load(&layout, id).unwrap_err().to_string();
        assert!(error.contains("pod.json") && error.contains("not a pod record"), "{error}");
        assert_eq!(PodRecord::salvage_config(&layout, id), None);
    }

    #[test]
    fn the_record_of_another_pod_is_not_taken() {
        let (_dir, layout, record) = saved();
        let other = PodId::random();
        record::private_folder(&layout.pod_root(&other)).unwrap();
        fs::copy(layout.record(&record.metadata.id), layout.record(&other)).unwrap();
        assert!(matches!(PodRecord::load(&layout, &other), Err(LoadError::Misplaced { .. })));
        assert_eq!(PodRecord::salvage_config(&layout, &other), None);
    }
}
