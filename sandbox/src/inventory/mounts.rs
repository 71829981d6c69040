//! Mounts below the server's folders, and network namespaces that are mounted for CNI plugins.

use std::path::{Path, PathBuf};

use crisp_executor::ids::PodId;
use crisp_executor::mount_table;

use super::{Leftover, Owner, Owners, Proof, Thing};
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
    let layout = &owners.service.layout;
    let folders = [layout.pods_root(), layout.pods_state(), owners.known.container_folders.clone()];
    let owner = match id_of_place(folders.each_ref().map(PathBuf::as_path), point) {
        Some(id) => owners.of(id, Proof::Place, || Leftover::Mount(point.to_owned())),
        None => Owner::Server("a folder of the server, or of a volume".to_owned()),
    };
    Thing { kind: "mount", name, owner }
}

/// The id of the pod or container in whose folder it is. Volumes and layers are in other folders, and names below
/// all of them are those that others chose: a Docker in a pod has ids of the same form.
fn id_of_place<'a>(folders: [&Path; 3], point: &'a Path) -> Option<&'a str> {
    let below = folders.iter().find_map(|folder| point.strip_prefix(folder).ok())?;
    below.iter().next()?.to_str().filter(|id| PodId::parse(id).is_ok())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_of_the_pod_or_container_in_whose_folder_it_is() {
        let folders = ["/lib/pods", "/run/pods", "/lib/containers"].map(Path::new);
        let (id, other) = (PodId::random(), PodId::random());
        for (path, of) in [
            (format!("/run/pods/{id}/shm"), Some(id.as_str())),
            (format!("/lib/containers/{id}/volumes/{other}"), Some(id.as_str())),
            (format!("/lib/standalone/volumes/docker/overlay2/{other}/merged"), None),
            (format!("/lib/containers/{id}.bad/volumes/0"), None),
            (format!("/lib/layers/{other}"), None),
        ] {
            assert_eq!(id_of_place(folders, Path::new(&path)), of, "{path}");
        }
    }
}
