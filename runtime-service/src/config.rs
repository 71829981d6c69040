//! Settings of the runtime service.

use std::path::PathBuf;
use std::time::Duration;

/// Settings of one service.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// The persistent folder, e.g. /var/lib/crisp.
    pub root: PathBuf,
    /// From SIGHUP to SIGKILL for a command whose streaming client is gone.
    pub exec_grace: Duration,
    /// Folders with CDI specs; a later one goes before an earlier one.
    pub cdi_spec_dirs: Vec<PathBuf>,
}
