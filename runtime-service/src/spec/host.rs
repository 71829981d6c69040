//! What the host can give, looked up once when the server starts.

use std::fs;
use std::sync::Arc;

use crisp_executor::apparmor::AppArmor;
use crisp_executor::cgroup::Mode;
use oci_spec::runtime::Capabilities;

use super::capabilities;

/// What containers depend on of this host.
#[derive(Debug, Clone)]
pub struct Host {
    /// More than these no container can have.
    pub capabilities: Capabilities,
    pub apparmor: Arc<AppArmor>,
    pub cgroups: Mode,
    pub hostname: String,
}

impl Host {
    /// Looks at /proc and /sys; what cannot be read counts as absent.
    #[must_use]
    pub fn look(cgroups: Mode) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            capabilities: capabilities::of_host(&read("/proc/self/status")),
            apparmor: Arc::new(AppArmor::of_host()),
            cgroups,
            hostname: read("/proc/sys/kernel/hostname").trim().to_owned(),
        }
    }
}
