//! A pod as it is kept on disk: small, versioned, written whole and renamed into place.
//!
//! The record is written before anything of the pod exists, so that whatever a crash leaves behind
//! has an owner that the next start finds.

use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::{fs, io};

use crisp_executor::id::PodId;
use serde::{Deserialize, Serialize};

use crate::config::PodConfig;
use crate::layout::Layout;
use crate::pod::PodState;

const VERSION: u32 = 1;

/// What is known of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRecord {
    version: u32,
    pub id: PodId,
    pub config: PodConfig,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    pub state: PodState,
    pub ips: Vec<IpAddr>,
    /// The monitor's process id; only a hint, never signalled on its own.
    pub monitor_pid: Option<i32>,
    /// Boot in which the monitor ran: after another boot there is nothing to connect to.
    pub boot_id: String,
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: not a pod record: {source}", path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("{}: version {found}, this server reads up to {VERSION}", path.display())]
    Version { path: PathBuf, found: u32 },
    #[error("{}: describes pod {found}, not the pod its folder is named after", path.display())]
    Misplaced { path: PathBuf, found: PodId },
}

impl RecordError {
    /// There is no record at all.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl PodRecord {
    #[must_use]
    pub fn new(id: PodId, config: PodConfig, created_at: i64) -> Self {
        let boot_id = boot_id();
        Self {
            version: VERSION,
            id,
            config,
            created_at,
            state: PodState::Starting,
            ips: vec![],
            monitor_pid: None,
            boot_id,
        }
    }

    /// Writes the record in one piece.
    ///
    /// # Errors
    /// The path and what the file system said.
    pub fn save(&self, layout: &Layout) -> Result<(), RecordError> {
        let path = layout.record(&self.id);
        let text =
            serde_json::to_vec(self).map_err(|source| RecordError::Parse { path: path.clone(), source })?;
        write_whole(&path, &text, 0o600).map_err(|source| RecordError::Io { path, source })
    }

    /// Reads the record of `pod`.
    ///
    /// # Errors
    /// Missing, unreadable, of a later version, or of another pod.
    pub fn load(layout: &Layout, pod: &PodId) -> Result<Self, RecordError> {
        let path = layout.record(pod);
        let text = fs::read(&path).map_err(|source| RecordError::Io { path: path.clone(), source })?;
        let record: Self = serde_json::from_slice(&text)
            .map_err(|source| RecordError::Parse { path: path.clone(), source })?;
        if record.version > VERSION {
            return Err(RecordError::Version { path, found: record.version });
        }
        if record.id != *pod {
            return Err(RecordError::Misplaced { path, found: record.id });
        }
        Ok(record)
    }

    /// Whether the pod was started since the machine was.
    #[must_use]
    pub fn of_this_boot(&self) -> bool {
        self.boot_id == boot_id()
    }
}

/// The kernel's name for this boot; empty where it gives none.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|s| s.trim().to_owned()).unwrap_or_default()
}

/// Writes `bytes` beside `path` and renames: a reader sees the old or the new, never a half.
/// Not flushed to the disk: after a power cut the pod is gone anyway, and a record that came out
/// empty is set aside.
pub(crate) fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    let temporary = path.with_extension("new");
    let write = || {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        // The mode asked for must not depend on the process umask: containers read these files.
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(mode))?;
        fs::rename(&temporary, path)
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&temporary);
        named(e)
    })
}

/// Makes a folder (and those above it) for root alone.
pub(crate) fn private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

/// Removes a folder with all in it; a missing one is as good.
#[expect(clippy::disallowed_methods, reason = "not yet moved to crisp_operation::record::remove_folder")]
pub(crate) fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(io::Error::new(e.kind(), format!("{}: {e}", path.display())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::pod;

    fn layout() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path(), dir.path());
        (dir, layout)
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let (_dir, layout) = layout();
        let mut record = PodRecord::new(PodId::random(), pod("web"), 42);
        record.ips = vec!["10.88.0.2".parse().unwrap()];
        private_folder(&layout.pod_root(&record.id)).unwrap();
        record.save(&layout).unwrap();
        assert_eq!(PodRecord::load(&layout, &record.id).unwrap(), record);
        assert!(record.of_this_boot());
    }

    #[test]
    fn damage_is_named_with_its_path() {
        let (_dir, layout) = layout();
        let id = PodId::random();
        private_folder(&layout.pod_root(&id)).unwrap();
        fs::write(layout.record(&id), b"").unwrap();
        let error = PodRecord::load(&layout, &id).unwrap_err().to_string();
        assert!(error.contains("pod.json") && error.contains("not a pod record"), "{error}");
        let other = PodRecord::new(PodId::random(), pod("web"), 0);
        fs::write(layout.record(&id), serde_json::to_vec(&other).unwrap()).unwrap();
        assert!(matches!(PodRecord::load(&layout, &id), Err(RecordError::Misplaced { .. })));
    }
}
