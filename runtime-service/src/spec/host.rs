//! The capabilities of the host, looked up once when the server starts.

use std::fs;
use std::sync::Arc;

use crisp_executor::apparmor::AppArmor;
use crisp_executor::cgroup::Mode;
use oci_spec::runtime::{Capabilities, Capability, PosixRlimit};
use rustix::process::Resource;

use super::{capabilities, limits};

/// The properties of this host that containers depend on.
#[derive(Debug, Clone)]
pub struct Host {
    /// No container can have more than these.
    pub capabilities: Capabilities,
    /// The rlimits of every container.
    pub rlimits: Vec<PosixRlimit>,
    /// The highest hard limit that a container can have.
    pub highest_limit: fn(Resource) -> u64,
    pub apparmor: Arc<AppArmor>,
    pub cgroups: Mode,
    pub hostname: String,
}

impl Host {
    /// Reads /proc and /sys; a file that cannot be read counts as absent.
    #[must_use]
    pub fn detect(cgroups: Mode) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let status = read("/proc/self/status");
        let may_raise = capabilities::effective(&status).contains(&Capability::SysResource);
        Self {
            capabilities: capabilities::of_host(&status),
            rlimits: limits::rlimits(if may_raise { limits::any } else { limits::own_hard_limit }),
            highest_limit: if may_raise { limits::of_kernel } else { limits::own_hard_limit },
            apparmor: Arc::new(AppArmor::of_host()),
            cgroups,
            hostname: read("/proc/sys/kernel/hostname").trim().to_owned(),
        }
    }
}
