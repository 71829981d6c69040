//! The user of the processes: the request, looked up in the image's /etc/passwd and /etc/group.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use crisp_executor::user::{self, UserError};
use crisp_executor::user_namespace::{IdMappings, IdRange};
use crisp_image_service::ImageId;
use oci_spec::runtime;

use super::SpecError;
use crate::container::User;
use crate::container::config::{GroupsPolicy, Security, UserRequest};

/// `process.user` of the spec.
#[must_use]
pub fn to_spec(user: &User) -> runtime::User {
    let mut spec = runtime::User::default();
    spec.set_uid(user.uid).set_gid(user.gid).set_additional_gids(Some(user.groups.clone()));
    spec
}

/// Mappings of a user namespace.
#[must_use]
pub fn mappings(ranges: &[IdRange]) -> Vec<runtime::LinuxIdMapping> {
    let mapping = |range: &IdRange| {
        let mapping = runtime::LinuxIdMappingBuilder::default().container_id(range.container);
        // Every field is given, so this cannot fail.
        mapping.host_id(range.host).size(range.length).build().ok()
    };
    ranges.iter().filter_map(mapping).collect()
}

/// A process cannot have a user that does not exist in its user namespace.
pub(super) fn check_mapped(user: &User, mappings: Option<&IdMappings>) -> Result<(), SpecError> {
    let Some(mappings) = mappings else { return Ok(()) };
    let not_mapped = |what, id| Err(SpecError::NotMapped { what, id });
    if mappings.host_uid(user.uid).is_none() {
        return not_mapped("user", user.uid);
    }
    let group = [&user.gid].into_iter().chain(&user.groups).find(|gid| mappings.host_gid(**gid).is_none());
    group.map_or(Ok(()), |gid| not_mapped("group", *gid))
}

/// The user to look up, in the form of a Dockerfile's USER.
#[must_use]
pub fn requested(security: &Security, image_user: &str) -> String {
    match (&security.user, security.group) {
        (UserRequest::Image, _) => image_user.to_owned(),
        (UserRequest::Id(uid), None) => uid.to_string(),
        (UserRequest::Id(uid), Some(gid)) => format!("{uid}:{gid}"),
        (UserRequest::Name(name), None) => name.clone(),
        (UserRequest::Name(name), Some(gid)) => format!("{name}:{gid}"),
    }
}

/// A user of the image with the requested groups.
#[must_use]
pub fn with_groups(found: &user::User, security: &Security) -> User {
    User {
        uid: found.uid,
        gid: found.gid,
        groups: groups(security, found.gid, &found.groups),
        home: found.home.clone(),
    }
}

/// A cache of users. An image never changes, so the results stay valid, and a new lookup would have to mount
/// the image.
#[derive(Debug, Default)]
pub struct Users {
    known: Mutex<HashMap<(ImageId, String), user::User>>,
}

/// More than a node has images and users. A full cache is cleared.
const MAX_KNOWN: usize = 1024;
/// Limit for one entry in bytes. Names, homes and groups come from an image's files; longer ones are not
/// cached.
const MAX_ENTRY: usize = 4096;

impl Users {
    #[must_use]
    pub fn get(&self, image: &ImageId, name: &str) -> Option<user::User> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&(image.clone(), name.to_owned())).cloned()
    }

    /// Blocks: reads /etc/passwd and /etc/group below `root`.
    ///
    /// # Errors
    /// The user or group is not in the image.
    pub fn resolve(&self, image: &ImageId, name: &str, root: impl AsFd) -> Result<user::User, UserError> {
        let user = user::resolve(root, name)?;
        let groups = size_of_val(user.groups.as_slice());
        if name.len() + user.home.len() + user.name.as_deref().map_or(0, str::len) + groups > MAX_ENTRY {
            return Ok(user);
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert((image.clone(), name.to_owned()), user.clone());
        Ok(user)
    }
}

/// The primary group is part of the list, as with login(1): a program that changes its group and changes back
/// needs it there.
fn groups(security: &Security, primary: u32, of_image: &[u32]) -> Vec<u32> {
    let of_image: &[u32] = match security.groups_policy {
        GroupsPolicy::Merge => of_image,
        GroupsPolicy::Strict => &[],
    };
    let mut known = HashSet::new();
    let all = [primary]
        .into_iter()
        .chain(security.supplemental_groups.iter().copied())
        .chain(of_image.iter().copied());
    all.filter(|group| known.insert(*group)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::security;
    use super::*;

    #[test]
    fn strict_leaves_the_images_groups_out() {
        let mut security = security();
        security.supplemental_groups = vec![2000, 10];
        assert_eq!(groups(&security, 10, &[5, 2000]), [10, 2000, 5]);
        security.groups_policy = GroupsPolicy::Strict;
        assert_eq!(groups(&security, 10, &[5, 2000]), [10, 2000]);
    }
}
