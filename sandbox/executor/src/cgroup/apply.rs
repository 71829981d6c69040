//! Sets limits: each controller's part, in its hierarchy.

use super::dir::Dir;
use super::error::CgroupError;
use super::hierarchy::{Controller, ControllerHierarchy, Host};
use super::path::CgroupPath;
use super::resources::{Resources, invalid};
use super::{cpu, cpuset, devices, hugetlb, io, memory, pids, rdma};

/// A controller's folder for one cgroup.
#[derive(Debug)]
pub(super) enum At {
    V1(Dir),
    V2(Dir),
}

impl At {
    pub(super) fn dir(&self) -> &Dir {
        match self {
            Self::V1(dir) | Self::V2(dir) => dir,
        }
    }

    /// See [`Dir::keep_files`].
    pub(super) fn keep_files(self) -> Self {
        match self {
            Self::V1(dir) => Self::V1(dir.keep_files()),
            Self::V2(dir) => Self::V2(dir.keep_files()),
        }
    }
}

/// None when the host has no such controller.
pub(super) fn at(host: &Host, controller: Controller, path: &CgroupPath) -> Result<Option<At>, CgroupError> {
    let missing = || CgroupError::NotFound { path: path.clone() };
    Ok(match host.hierarchy_of(controller) {
        Some(ControllerHierarchy::V1(hierarchy)) => Some(At::V1(hierarchy.dir(path)?.ok_or_else(missing)?)),
        Some(ControllerHierarchy::V2(hierarchy)) => Some(At::V2(hierarchy.dir(path)?.ok_or_else(missing)?)),
        None => None,
    })
}

fn require(host: &Host, controller: Controller, path: &CgroupPath) -> Result<At, CgroupError> {
    at(host, controller, path)?.ok_or_else(|| CgroupError::NoController {
        path: path.clone(),
        controller: controller.v1_name(),
        hint: " (see /proc/cgroups and the kernel's command line)",
    })
}

/// Refuses limits that the host does not support, before anything is written: a half-applied update would be
/// worst.
fn check(host: &Host, limits: &Resources) -> Result<(), CgroupError> {
    cpu::check(&limits.cpu)?;
    io::check(&limits.io)?;
    memory::check(&limits.memory)?;
    match host.hierarchy_of(Controller::Memory) {
        Some(ControllerHierarchy::V1(_)) => memory::check_v1(&limits.memory)?,
        Some(ControllerHierarchy::V2(_)) => memory::check_v2(&limits.memory)?,
        None => {}
    }
    for limit in &limits.hugepages {
        hugetlb::check_size(&limit.page_size)?;
    }
    if !limits.unified.is_empty() && (host.v2.is_none() || !host.v1.is_empty()) {
        return Err(invalid("unified", "this host has cgroup v1, which has no such files"));
    }
    for file in limits.unified.keys() {
        let plain = file.contains('.')
            && !file.contains('/')
            && !file.starts_with('.')
            && !file.starts_with("cgroup.");
        if !plain {
            return Err(invalid(format!("unified[{file:?}]"), "is not the name of a controller's file"));
        }
    }
    Ok(())
}

pub(super) fn apply(host: &Host, path: &CgroupPath, limits: &Resources) -> Result<(), CgroupError> {
    check(host, limits)?;
    if limits.cpu != Default::default() {
        match require(host, Controller::Cpu, path)? {
            At::V1(dir) => cpu::apply_v1(&dir, &limits.cpu)?,
            At::V2(dir) => cpu::apply_v2(&dir, &limits.cpu)?,
        }
    }
    if limits.memory != Default::default() {
        match require(host, Controller::Memory, path)? {
            At::V1(dir) => memory::apply_v1(&dir, &limits.memory)?,
            At::V2(dir) => memory::apply_v2(&dir, &limits.memory)?,
        }
    }
    if limits.io != Default::default() {
        match require(host, Controller::Io, path)? {
            At::V1(dir) => io::apply_v1(&dir, &limits.io)?,
            At::V2(dir) => io::apply_v2(&dir, &limits.io)?,
        }
    }
    if let Some(limit) = limits.pids {
        pids::apply(require(host, Controller::Pids, path)?.dir(), limit)?;
    }
    if [&limits.cpuset.cpus, &limits.cpuset.mems].into_iter().flatten().any(|list| !list.is_empty()) {
        cpuset::apply(require(host, Controller::Cpuset, path)?.dir(), &limits.cpuset)?;
    }
    apply_hugepages(host, path, limits)?;
    if !limits.rdma.is_empty() {
        rdma::apply(require(host, Controller::Rdma, path)?.dir(), &limits.rdma)?;
    }
    if let Some(rules) = &limits.devices {
        match require(host, Controller::Devices, path)? {
            At::V1(dir) => devices::apply_v1(&dir, rules)?,
            At::V2(dir) => devices::apply_v2(path, &dir, rules)?,
        }
    }
    apply_unified(host, path, limits)
}

fn apply_hugepages(host: &Host, path: &CgroupPath, limits: &Resources) -> Result<(), CgroupError> {
    // The kubelet sends a limit of 0 for each page size of the host to every container. Without the
    // controller these limits cannot be set, but refusing them would stop all pods; a limit above 0 is
    // refused.
    let matter = limits.hugepages.iter().any(|l| l.limit > 0);
    match at(host, Controller::Hugetlb, path)? {
        _ if limits.hugepages.is_empty() => Ok(()),
        Some(At::V1(dir)) => hugetlb::apply_v1(&dir, &limits.hugepages),
        Some(At::V2(dir)) => hugetlb::apply_v2(&dir, &limits.hugepages),
        None if matter => require(host, Controller::Hugetlb, path).map(drop),
        None => Ok(()),
    }
}

/// Files of the unified hierarchy, unchanged.
fn apply_unified(host: &Host, path: &CgroupPath, limits: &Resources) -> Result<(), CgroupError> {
    if limits.unified.is_empty() {
        return Ok(());
    }
    let Some(v2) = &host.v2 else { return Err(CgroupError::NoHierarchy) };
    let dir = v2.dir(path)?.ok_or_else(|| CgroupError::NotFound { path: path.clone() })?;
    for (file, value) in &limits.unified {
        // Some files (io.max, for several devices) take one line per write.
        for line in value.split('\n').filter(|l| !l.is_empty()) {
            dir.write(file, line)?;
        }
    }
    Ok(())
}
