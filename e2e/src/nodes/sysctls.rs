//! Kernel settings of the host that kubelets set, and that no namespace holds.

use std::path::Path;

const NAMES: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// Their values; dropping it sets them again.
pub(super) struct Sysctls(Vec<(&'static str, String)>);

impl Sysctls {
    pub(super) fn remember() -> Self {
        let value = |name| Some((name, std::fs::read_to_string(path(name)).ok()?));
        Self(NAMES.into_iter().filter_map(value).collect())
    }
}

impl Drop for Sysctls {
    fn drop(&mut self) {
        for (name, value) in &self.0 {
            if std::fs::read_to_string(path(name)).is_ok_and(|now| now != *value) {
                let _ = std::fs::write(path(name), value);
            }
        }
    }
}

fn path(name: &str) -> std::path::PathBuf {
    Path::new("/proc/sys").join(name)
}
