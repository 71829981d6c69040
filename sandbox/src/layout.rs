//! The paths of a pod's files. No other file in this crate joins state paths.
//!
//! ```text
//! <root>/pods/<id>/pod.json            the record, kept over reboots
//! <root>/pods/<id>/{hosts,resolv.conf,hostname}
//! <state>/pods/<id>/monitor.sock       gone after a reboot, as the pod is
//! <state>/pods/<id>/monitor.log
//! <state>/pods/<id>/exits/             the monitor's records of ended containers
//! <state>/network/                     addresses and attachments
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crisp_executor::ids::PodId;

/// The two trees: `root` survives a reboot, `state` does not.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
    state: PathBuf,
}

impl Layout {
    #[must_use]
    pub fn new(root: &Path, state: &Path) -> Self {
        Self { root: root.to_owned(), state: state.to_owned() }
    }

    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The pods that have a folder.
    ///
    /// # Errors
    /// A folder cannot be listed.
    pub(crate) fn pod_ids(&self) -> io::Result<BTreeSet<PodId>> {
        let mut ids = BTreeSet::new();
        for folder in [self.pods_root(), self.pods_state()] {
            for entry in fs::read_dir(folder)? {
                ids.extend(PodId::parse(&entry?.file_name().to_string_lossy()));
            }
        }
        Ok(ids)
    }

    #[must_use]
    pub fn pods_root(&self) -> PathBuf {
        self.root.join("pods")
    }

    #[must_use]
    pub fn pods_state(&self) -> PathBuf {
        self.state.join("pods")
    }

    #[must_use]
    pub fn pod_root(&self, pod: &PodId) -> PathBuf {
        self.pods_root().join(pod.as_str())
    }

    #[must_use]
    pub fn pod_state(&self, pod: &PodId) -> PathBuf {
        self.pods_state().join(pod.as_str())
    }

    #[must_use]
    pub fn record(&self, pod: &PodId) -> PathBuf {
        self.pod_root(pod).join("pod.json")
    }

    #[must_use]
    pub fn hosts(&self, pod: &PodId) -> PathBuf {
        self.pod_root(pod).join("hosts")
    }

    #[must_use]
    pub fn resolv_conf(&self, pod: &PodId) -> PathBuf {
        self.pod_root(pod).join("resolv.conf")
    }

    #[must_use]
    pub fn hostname(&self, pod: &PodId) -> PathBuf {
        self.pod_root(pod).join("hostname")
    }

    #[must_use]
    pub fn socket(&self, pod: &PodId) -> PathBuf {
        self.pod_state(pod).join("monitor.sock")
    }

    #[must_use]
    pub fn exits(&self, pod: &PodId) -> PathBuf {
        self.pod_state(pod).join("exits")
    }
}
