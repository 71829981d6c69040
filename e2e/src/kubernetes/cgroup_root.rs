//! The cgroup below which a kubelet works, so that it does not touch those of the machine.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Result;

/// One folder in every hierarchy; with systemd, the slices that kubeadm sets up at the root of the host.
/// Dropping it removes them with everything that the kubelet made in them.
pub(super) struct CgroupRoot {
    name: String,
    /// Held with systemd, because its slices are the same for all kubelets.
    _alone: Option<MutexGuard<'static, ()>>,
}

static SLICES: Mutex<()> = Mutex::new(());

impl CgroupRoot {
    pub(super) fn make(name: &str) -> Result<Self> {
        if uses_systemd() {
            let alone = SLICES.lock().unwrap_or_else(PoisonError::into_inner);
            return Ok(Self { name: name.to_owned(), _alone: Some(alone) });
        }
        let this = Self { name: name.to_owned(), _alone: None };
        enable_controllers()?;
        for hierarchy in hierarchies() {
            let folder = hierarchy.join(name);
            if std::fs::create_dir(&folder).is_ok() {
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    if folder.join(file).exists() && hierarchy.join(file).exists() {
                        std::fs::write(folder.join(file), std::fs::read(hierarchy.join(file))?)?;
                    }
                }
            }
        }
        Ok(this)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for CgroupRoot {
    fn drop(&mut self) {
        if uses_systemd() {
            let _ = Command::new("systemctl").args(["stop", "kubepods.slice"]).status();
            return;
        }
        for hierarchy in hierarchies() {
            remove(&hierarchy.join(&self.name));
        }
    }
}

/// Whether the machine's server is set to the systemd driver.
pub(super) fn uses_systemd() -> bool {
    std::env::var("CRISP_TEST_CGROUP_DRIVER").is_ok_and(|driver| driver == "systemd")
}

/// Every cgroup hierarchy of this host.
fn hierarchies() -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let cgroup = |line: &&str| line.contains(" - cgroup ") || line.contains(" - cgroup2 ");
    table.lines().filter(cgroup).filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}

/// Enables the controllers of a host with cgroup v2 alone in the cgroups below its root: a kubelet does not
/// start on a cgroup that lacks one of them, and systemd enables only those that a unit asks for.
fn enable_controllers() -> Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    // On other hosts the tree of v2 is not the kubelet's.
    let Ok(controllers) = std::fs::read_to_string(root.join("cgroup.controllers")) else { return Ok(()) };
    for name in controllers.split_whitespace() {
        std::fs::write(root.join("cgroup.subtree_control"), format!("+{name}"))?;
    }
    Ok(())
}

fn remove(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(folder);
}
