//! The cgroup of a container.

use anyhow::{Context as _, bail};
use crisp_executor::cgroup::{Cgroup, CgroupError, CgroupPath, Cgroups, Resources};
use oci_spec::runtime::Spec;

use super::devices;
use super::id::OciId;

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
