//! Kernel settings of the host that kubelets set, and that no namespace holds.

use std::path::{Path, PathBuf};

use crate::Result;

/// The file in a cluster's folder with the settings before it, for the case that its run is killed.
pub(super) const FILE: &str = "sysctls.json";

const NAMES: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// Their values; dropping it sets them again.
pub(super) struct Sysctls(Vec<(String, String)>);

impl Sysctls {
    /// The present values, which are written to the folder as well.
    pub(super) fn remember(folder: &Path) -> Result<Self> {
        let value = |name: &str| Some((name.to_owned(), std::fs::read_to_string(path(name)).ok()?));
        let values: Vec<_> = NAMES.into_iter().filter_map(value).collect();
        std::fs::write(folder.join(FILE), serde_json::to_vec(&values)?)?;
        Ok(Self(values))
    }

    /// The values that an earlier run has written, if it came so far.
    pub(super) fn of_earlier(file: &Path) -> Self {
        let values = std::fs::read(file).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Self(values.unwrap_or_default())
    }
}

impl Drop for Sysctls {
    fn drop(&mut self) {
        for (name, value) in &self.0 {
            let is_known = NAMES.contains(&name.as_str());
            if is_known && std::fs::read_to_string(path(name)).is_ok_and(|now| now != *value) {
                let _ = std::fs::write(path(name), value);
            }
        }
    }
}

fn path(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}
