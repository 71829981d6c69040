//! The capabilities of the host, looked up once when the server starts.

use std::fs;
use std::sync::Arc;

use crisp_executor::apparmor::AppArmor;
use crisp_executor::cgroup::Mode;
use oci_spec::runtime::Capabilities;

use super::capabilities;

/// The properties of this host that containers depend on.
#[derive(Debug, Clone)]
pub struct Host {
    /// No container can have more than these.
    pub capabilities: Capabilities,
    pub apparmor: Arc<AppArmor>,
    pub cgroups: Mode,
    pub hostname: String,
}

impl Host {
    /// Reads /proc and /sys; a file that cannot be read counts as absent.
    #[must_use]
    pub fn detect(cgroups: Mode) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            capabilities: capabilities::of_host(&read("/proc/self/status")),
            apparmor: Arc::new(AppArmor::of_host()),
            cgroups,
            hostname: read("/proc/sys/kernel/hostname").trim().to_owned(),
        }
    }
}
