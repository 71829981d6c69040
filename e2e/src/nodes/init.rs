//! The first process of a node: mounts the node's file systems, then waits for processes without a parent.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::cgroups::{self, Hierarchy};
use crate::Result;

/// The file on a node's disk that says that its mounts are done.
pub(super) const BOOTED: &str = "booted";

/// Sets up the node `name` with what is in the folder `disk`, and does not return.
///
/// # Errors
/// The mount that failed.
pub fn run(name: &str, disk: &Path) -> Result<()> {
    std::fs::write("/proc/sys/kernel/hostname", name)?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    mount_cgroups(cgroups::hierarchies()?)?;
    mount_disk(disk)?;
    // Folders that an administrator shares are seen by pods, as where systemd is the first process.
    run_mount(&["--make-rshared", "/"])?;
    std::fs::write(disk.join(BOOTED), "")?;
    loop {
        if rustix::process::wait(rustix::process::WaitOptions::empty()).is_err() {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A new view of /sys has the interfaces of this network; its cgroups begin with the node's.
fn mount_cgroups(hierarchies: Vec<Hierarchy>) -> Result<()> {
    run_mount(&["-t", "sysfs", "sysfs", "/sys"])?;
    run_mount(&["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/sys/fs/cgroup"])?;
    for Hierarchy { mount, kind, options } in hierarchies {
        std::fs::create_dir_all(&mount)?;
        let path = mount.display().to_string();
        let mut words = vec!["-t", &kind];
        if !options.is_empty() {
            words.extend(["-o", &options]);
        }
        words.extend([kind.as_str(), &path]);
        run_mount(&words)?;
    }
    Ok(())
}

/// /var and /opt are folders of the node's disk, and changes of /etc are there, too. /run is forgotten.
fn mount_disk(disk: &Path) -> Result<()> {
    let is_new = !disk.join("etc/cni").exists();
    for folder in ["var/lib", "var/log", "var/tmp", "opt", "etc", "work"] {
        std::fs::create_dir_all(disk.join(folder))?;
    }
    let path = |name: &str| disk.join(name).display().to_string();
    run_mount(&["--bind", &path("var"), "/var"])?;
    run_mount(&["--bind", &path("opt"), "/opt"])?;
    let layers = format!("lowerdir=/etc,upperdir={},workdir={}", path("etc"), path("work"));
    run_mount(&["-t", "overlay", "-o", &layers, "etc", "/etc"])?;
    if is_new {
        // The host's own.
        let _ = std::fs::remove_dir_all("/etc/cni/net.d");
        std::fs::create_dir_all("/etc/cni/net.d")?;
    }
    run_mount(&["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"])
}

fn run_mount(words: &[&str]) -> Result<()> {
    let output = Command::new("mount").args(words).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("mount {words:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}
