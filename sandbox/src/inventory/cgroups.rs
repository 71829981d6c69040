//! Cgroups, each listed once for all hierarchies.

use crisp_executor::ids::PodId;

use super::{Leftover, Owner, Owners, Proof, Thing, last_id};
use crate::top_cgroup;

pub(super) fn list(owners: &Owners<'_>) -> Vec<Thing> {
    let mut things = Vec::new();
    owners.service.cgroups.walk(|path| {
        let text = path.as_str();
        if text == top_cgroup::PATH {
            let owner = Owner::Server("above pods whose client names no parent".to_owned());
            things.push(Thing { kind: "cgroup", name: text.to_owned(), owner });
            return true;
        }
        let Some(id) = last_id(text) else { return true };
        let owner = owners.of(id, Proof::Missing, || Leftover::Cgroup(path.clone()));
        // A folder below a pod's scope, such as `pod`, has the id in its parent's name.
        if !path.name().contains(id) {
            return true;
        }
        let (is_pod, is_another) = (is_pod(owners, id), matches!(owner, Owner::Another(_)));
        if !is_another || is_of_crisp(text) {
            things.push(Thing { kind: "cgroup", name: text.to_owned(), owner });
        }
        // A container may make any cgroups below its own.
        is_pod || is_another
    });
    things
}

/// Whether it may contain containers' cgroups.
fn is_pod(owners: &Owners<'_>, id: &str) -> bool {
    PodId::parse(id).is_ok_and(|pod| owners.service.table.get(&pod).is_some())
        || owners.known.past.contains(id)
}

/// Whether only Crisp makes cgroups with such a path.
fn is_of_crisp(path: &str) -> bool {
    path.starts_with("/crisp/") || path.contains("/crisp-")
}
