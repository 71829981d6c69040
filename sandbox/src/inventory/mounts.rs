//! Mounts below the server's folders, and network namespaces that are mounted for CNI plugins.

use std::path::Path;

use crisp_executor::mount_table;

use super::{Leftover, Owner, Owners, Proof, Thing, last_id};
use crate::network::{is_namespace, namespaces_with_paths};

pub(super) fn list(owners: &Owners<'_>) -> Vec<Thing> {
    let mut things = namespaces(owners);
    let points = mount_table::mount_points().unwrap_or_else(|error| {
        tracing::warn!(%error, "the mount table cannot be read");
        Vec::new()
    });
    let folders = [owners.service.layout.root(), owners.service.layout.state()];
    let ours = points.iter().filter(|point| folders.iter().any(|folder| point.starts_with(folder)));
    things.extend(ours.map(|point| mount(owners, point)));
    things
}

fn mount(owners: &Owners<'_>, point: &Path) -> Thing {
    let name = point.display().to_string();
    let owner = match last_id(&name) {
        Some(id) => owners.of(id, Proof::Place, || Leftover::Mount(point.to_owned())),
        None => Owner::Server("a folder of the server, or of a volume".to_owned()),
    };
    Thing { kind: "mount", name, owner }
}

fn namespaces(owners: &Owners<'_>) -> Vec<Thing> {
    namespaces_with_paths().into_iter().map(|(path, short)| namespace(owners, &path, &short)).collect()
}

fn namespace(owners: &Owners<'_>, path: &Path, short: &str) -> Thing {
    let leftover = || Leftover::NetworkNamespace(path.to_owned());
    let owner = match owners.whole_id(|id| id.starts_with(short)) {
        Some(id) => owners.of(&id, Proof::Missing, leftover),
        None => Owner::Another("the journal has no pod whose id begins so".to_owned()),
    };
    let what = if is_namespace(path) { "" } else { " (a file without a namespace)" };
    Thing { kind: "network namespace", name: format!("{}{what}", path.display()), owner }
}
