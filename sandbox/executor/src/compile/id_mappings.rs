//! `linux.uidMappings`, `linux.gidMappings` and those of mounts; ids that must exist in a user namespace.

use std::os::fd::{AsFd, BorrowedFd};

use oci_spec::runtime::{Linux, LinuxIdMapping};

use super::CompileError;
use super::field::invalid;
use crate::plan::{Device, Process};
use crate::user_namespace::{IdMappings, IdRange, UserNamespace};

/// Converts mappings; returns None if there are none.
pub(super) fn mappings(
    uids: Option<&Vec<LinuxIdMapping>>,
    gids: Option<&Vec<LinuxIdMapping>>,
) -> Option<IdMappings> {
    let ranges = |given: Option<&Vec<LinuxIdMapping>>| -> Vec<IdRange> {
        let range =
            |m: &LinuxIdMapping| IdRange { container: m.container_id(), host: m.host_id(), length: m.size() };
        given.into_iter().flatten().map(range).collect()
    };
    let mappings = IdMappings { uids: ranges(uids), gids: ranges(gids) };
    (mappings != IdMappings::default()).then_some(mappings)
}

/// Checks that the spec has the pod's mappings. `listed`: a user namespace is among its namespaces.
pub(super) fn agree(linux: &Linux, listed: bool, user: Option<&UserNamespace>) -> Result<(), CompileError> {
    if listed != user.is_some() {
        let reason =
            if listed { "but the pod has no user namespace" } else { "missing, but the pod has one" };
        return Err(invalid("linux.namespaces", format!("user: {reason}")));
    }
    let given = mappings(linux.uid_mappings().as_ref(), linux.gid_mappings().as_ref());
    if given.as_ref() != user.map(|user| &user.mappings) {
        return Err(invalid("linux.uidMappings", "they and linux.gidMappings are not those of the pod"));
    }
    Ok(())
}

/// Checks that the ids of the process exist in the namespace.
pub(super) fn check_process(process: &Process, mappings: &IdMappings) -> Result<(), CompileError> {
    let unmapped = |field: &str, id: u32| {
        invalid(format!("process.user.{field}"), format!("{id} is not mapped in the pod's user namespace"))
    };
    if mappings.host_uid(process.uid).is_none() {
        return Err(unmapped("uid", process.uid));
    }
    if mappings.host_gid(process.gid).is_none() {
        return Err(unmapped("gid", process.gid));
    }
    match process.groups.iter().find(|gid| mappings.host_gid(**gid).is_none()) {
        Some(gid) => Err(unmapped("additionalGids", *gid)),
        None => Ok(()),
    }
}

pub(super) fn check_devices(devices: &[Device], mappings: &IdMappings) -> Result<(), CompileError> {
    let exists = |d: &&Device| mappings.host_uid(d.uid).is_some() && mappings.host_gid(d.gid).is_some();
    match devices.iter().find(|device| !exists(device)) {
        None => Ok(()),
        Some(device) => {
            let reason = format!(
                "{:?}: its owner {}:{} is not mapped in the pod's user namespace",
                device.path.to_string_lossy(),
                device.uid,
                device.gid
            );
            Err(invalid("linux.devices", reason))
        }
    }
}

/// The ids of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ids {
    /// The ids of the pod's user namespace.
    Pod,
    Own(IdMappings),
}

/// The user namespaces of the mounts of one spec.
pub(super) struct Namespaces<'a> {
    pub pod: Option<&'a UserNamespace>,
    pub made: Vec<UserNamespace>,
}

impl Namespaces<'_> {
    /// Opens the user namespace of a mount. `field` names the mount.
    pub(super) fn of(&mut self, ids: &Ids, field: &str) -> Result<BorrowedFd<'_>, CompileError> {
        let wanted = match (ids, self.pod) {
            (Ids::Pod, Some(pod)) => return Ok(pod.as_fd()),
            (Ids::Own(wanted), Some(pod)) if *wanted == pod.mappings => return Ok(pod.as_fd()),
            (Ids::Own(wanted), _) => wanted,
            (Ids::Pod, None) => {
                return Err(invalid(field, "idmap without uidMappings, and the pod has no user namespace"));
            }
        };
        let place = match self.made.iter().position(|made| made.mappings == *wanted) {
            Some(place) => place,
            None => {
                wanted.check().map_err(|error| invalid(field, error.to_string()))?;
                let made = UserNamespace::new(wanted.clone());
                self.made.push(made.map_err(|error| invalid(field, error.to_string()))?);
                self.made.len() - 1
            }
        };
        Ok(self.made[place].as_fd())
    }
}
