//! The cgroup of a container.

use std::fs;

use anyhow::{Context as _, bail};
use crisp_executor::cgroup::{Cgroup, CgroupError, CgroupPath, Cgroups, Resources};
use oci_spec::runtime::Spec;

use super::devices;
use super::id::OciId;
use super::record::Record;

/// The beginning of cgroup paths of containers whose spec names none. They have no parent cgroup, which would
/// be left behind.
const DEFAULT: &str = "/crisp-oci-";

/// Reads `linux.cgroupsPath`; a path without a slash at its start is relative to the root too.
///
/// # Errors
/// It leads out of the hierarchy, or has the form of a systemd slice.
pub fn path(spec: &Spec, id: &OciId) -> anyhow::Result<CgroupPath> {
    let requested = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref());
    let text = match requested.map(|path| path.to_string_lossy()) {
        Some(text) if !text.is_empty() => text,
        _ => return Ok(CgroupPath::parse(&format!("{DEFAULT}{id}"))?),
    };
    if !text.contains('/') && text.split(':').count() == 3 {
        bail!(
            "linux.cgroupsPath: {text:?} is one of systemd, which crisp oci does not support: use cgroupfs"
        );
    }
    let absolute = format!("/{}", text.trim_matches('/'));
    CgroupPath::parse(&absolute).context("linux.cgroupsPath")
}

/// Refuses a cgroup that has processes: they would be counted, limited and killed with the container's.
///
/// # Errors
/// It is in use.
pub fn must_be_empty(cgroups: &Cgroups, path: &CgroupPath) -> anyhow::Result<()> {
    let pids = match cgroups.open(path) {
        Ok(cgroup) => cgroup.pids()?,
        Err(CgroupError::NotFound { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    match pids.first() {
        None => Ok(()),
        Some(pid) => bail!(
            "linux.cgroupsPath: there are processes in {path} already, as {pid}: give each container its own"
        ),
    }
}

/// The cgroup for one more process of a container: its own, or that of its first process when a container that manages
/// cgroups itself, as one of systemd, has enabled controllers below. The kernel allows no processes there then.
///
/// # Errors
/// It has been removed.
pub fn for_exec(cgroups: &Cgroups, record: &Record) -> anyhow::Result<Cgroup> {
    let own = cgroups.open(&record.cgroup)?;
    if own.accepts_processes()? {
        return Ok(own);
    }
    let of_init = record.init.and_then(|init| fs::read_to_string(format!("/proc/{}/cgroup", init.pid)).ok());
    match of_init.and_then(|text| below(&text, &record.cgroup)) {
        Some(path) => Ok(cgroups.open(&path)?),
        None => Ok(own),
    }
}

/// The v2 cgroup in the text of a /proc/PID/cgroup, if it is below `own`.
fn below(text: &str, own: &CgroupPath) -> Option<CgroupPath> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let rest = path.strip_prefix(own.as_str())?;
    rest.starts_with('/').then(|| CgroupPath::parse(path).ok())?
}

/// The limits of a spec.
///
/// # Errors
/// The error names the field.
pub fn resources(spec: &Spec) -> anyhow::Result<Resources> {
    let requested = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let mut resources = requested.map_or_else(|| Ok(Resources::default()), Resources::from_spec)?;
    resources.devices = Some(devices::policy(resources.devices.take()));
    Ok(resources)
}

/// Makes the cgroup and sets its limits.
///
/// # Errors
/// The error names the kernel's file.
pub fn make(cgroups: &Cgroups, path: &CgroupPath, resources: &Resources) -> anyhow::Result<Cgroup> {
    let cgroup = cgroups.create(path)?;
    cgroup.apply(resources)?;
    Ok(cgroup)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_cgroup_below_the_containers_own_is_taken() {
        let own = CgroupPath::parse("/pod/web").unwrap();
        let found = |text: &str| below(text, &own).map(|path| path.as_str().to_owned());
        assert_eq!(found("1:name=x:/\n0::/pod/web/init.scope\n"), Some("/pod/web/init.scope".to_owned()));
        for other in ["0::/pod/web\n", "0::/pod/website\n", "0::/\n", "0::/../x\n", "1:cpu:/pod/web/x\n", ""]
        {
            assert_eq!(found(other), None, "{other}");
        }
    }
}
