//! Settings of the runtime service.

use std::path::PathBuf;
use std::time::Duration;

/// Settings of one service.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// The persistent folder, e.g. /var/lib/crisp.
    pub root: PathBuf,
    /// Reported to kubelet; it also says how `cgroup_parent` of a pod is read.
    pub cgroup_driver: CgroupDriver,
    /// From SIGHUP to SIGKILL for a command whose streaming client is gone.
    pub exec_grace: Duration,
}

/// The cgroup driver. Kubelet and the runtime must use the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CgroupDriver {
    /// Cgroup parents are paths below the cgroup root.
    #[default]
    Cgroupfs,
    /// Cgroup parents are names of systemd slices.
    Systemd,
}
