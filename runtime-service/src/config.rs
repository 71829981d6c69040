//! Settings of the runtime service.

use std::path::PathBuf;

/// Where and how containers are kept.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// Kept over reboots, e.g. /var/lib/crisp.
    pub root: PathBuf,
    /// ExitReport to kubelet, and how `cgroup_parent` is read.
    pub cgroup_driver: CgroupDriver,
}

/// Who makes cgroups for kubelet, which the runtime has to agree with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CgroupDriver {
    /// Paths; folders made by hand.
    #[default]
    Cgroupfs,
    /// Names of slices.
    Systemd,
}
