//! What the host can give, looked up once when the server starts.

use std::fs;
use std::path::Path;

use oci_spec::runtime::Capabilities;

use super::{SpecError, capabilities};

/// The profile that RuntimeDefault means on a host with AppArmor, if the administrator loaded it.
pub const DEFAULT_PROFILE: &str = "crisp-default";

const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";

/// ContainerMetadata about this host.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// More than these no container can have.
    pub capabilities: Capabilities,
    pub apparmor: bool,
    pub hostname: String,
}

impl HostFacts {
    /// Looks at /proc and /sys; what cannot be read counts as absent.
    #[must_use]
    pub fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            capabilities: capabilities::of_host(&read("/proc/self/status")),
            apparmor: read("/sys/module/apparmor/parameters/enabled").trim() == "Y",
            hostname: read("/proc/sys/kernel/hostname").trim().to_owned(),
        }
    }

    /// `name`, once it is sure that the kernel knows it: else the exec would fail with a bare ENOENT.
    ///
    /// # Errors
    /// [`SpecError::AppArmor`] saying what is missing.
    pub fn apparmor_profile(&self, name: &str) -> Result<String, SpecError> {
        let refuse = |problem: String| Err(SpecError::AppArmor { problem });
        if !self.apparmor {
            return refuse(format!("profile {name:?} is asked for, but this host has no AppArmor"));
        }
        if !Path::new(PROFILES).exists() {
            return Ok(name.to_owned());
        }
        let loaded = fs::read_to_string(PROFILES).unwrap_or_default();
        let known = loaded.lines().any(|line| line.rsplit_once(" (").is_some_and(|(known, _)| known == name));
        if known {
            Ok(name.to_owned())
        } else {
            refuse(format!("profile {name:?} is not loaded on this host: load it with apparmor_parser"))
        }
    }
}
