//! Tests with cgroups of the kernel.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::super::*;

mod device_rules;
mod exec_cgroups;
mod freezing;
mod lifecycle;
mod limits;
mod stats_reader;

/// Rules that allow nothing else than what every container may use.
fn harmless_devices() -> Vec<DeviceRule> {
    [vec![DeviceRule::DENY_ALL], DeviceRule::harmless()].concat()
}

/// A cgroup of this test alone; ended and removed with it.
struct Own {
    cgroups: Cgroups,
    cgroup: Cgroup,
    parent: CgroupPath,
}

impl Own {
    /// None, and a skip reported, where the test cannot run.
    fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        crisp_skip::needs!();
        let cgroups = Cgroups::detect().unwrap();
        let name = format!("/crisp-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let parent = CgroupPath::parse(&name).unwrap();
        let cgroup = cgroups.create(&parent.child("leaf").unwrap()).unwrap();
        Some(Self { cgroups, cgroup, parent })
    }

    fn host_file(&self, controller: Controller, file: &'static str) -> String {
        let at = apply::at(&self.cgroup.host, controller, self.cgroup.path()).unwrap().unwrap();
        at.dir().read(file, &mut [0u8; 4096]).unwrap().trim().to_owned()
    }

    /// A shell that does `script` once it is in the cgroup.
    fn run(&self, script: &str) -> Child {
        let mut child = Command::new("sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id().to_string();
        for hierarchy in self.cgroup.host.v1.iter().chain(&self.cgroup.host.v2) {
            hierarchy.dir(self.cgroup.path()).unwrap().unwrap().write("cgroup.procs", &pid).unwrap();
        }
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
        child
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.cgroup.kill();
        self.cgroups.remove(&self.parent).unwrap();
        assert!(self.cgroups.open(&self.parent).is_err());
    }
}

/// The hierarchy in which exec cgroups are made.
fn exec_hierarchy(own: &Own) -> &hierarchy::Hierarchy {
    let host = &own.cgroup.host;
    host.v2.as_ref().or(host.v1.iter().find(|h| h.has("freezer"))).unwrap()
}
