//! Folders of pods; each pod has two.

use std::fs;
use std::path::Path;

use crisp_executor::ids::PodId;
use crisp_operation::record::is_aside;

use super::{Leftover, Owner, Owners, Proof, Thing};

pub(super) fn list(owners: &Owners<'_>) -> Vec<Thing> {
    let layout = &owners.service.layout;
    [layout.pods_root(), layout.pods_state()].iter().flat_map(|folder| in_folder(owners, folder)).collect()
}

fn in_folder(owners: &Owners<'_>, folder: &Path) -> Vec<Thing> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| of_path(owners, &entry.path())).collect()
}

fn of_path(owners: &Owners<'_>, path: &Path) -> Thing {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let owner = if PodId::parse(&name).is_ok() {
        owners.of(&name, Proof::Place, || Leftover::Folder(path.to_owned()))
    } else if is_aside(path) {
        Owner::Server("a record that could not be used, kept for people to look at".to_owned())
    } else {
        Owner::Another("it has no name that this server gives".to_owned())
    };
    Thing { kind: "folder", name: path.display().to_string(), owner }
}
