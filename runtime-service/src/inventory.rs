//! The server's things on the machine: those of the pods' crate, and folders of containers and layers.

use std::collections::HashSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crisp_executor::ids::ContainerId;
use crisp_image_service::store::LayerUse;
use crisp_operation::Interrupted;
use crisp_operation::record::is_aside;
use crisp_sandbox::inventory::{KnownOwners, Leftover, Orphan, Owner, Thing};

use crate::layout::record_in;
use crate::notes::Subject;
use crate::service_state::ServiceState;

/// Things that are being made or removed look like orphans for a moment: an orphan is one only if it is still
/// there after this time.
const PAUSE: Duration = Duration::from_secs(1);

/// One thing; for an orphan also whether it was removed.
pub(crate) struct Found {
    pub(crate) thing: Item,
    pub(crate) removed: Option<Result<(), String>>,
}

/// A thing of pods and containers, or a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    Thing(Thing),
    Layer(LayerUse),
}

/// Lists everything, and on request removes orphans that hold neither data nor processes.
///
/// # Errors
/// The server is shutting down.
pub(crate) async fn inventory(
    service: &Arc<ServiceState>,
    remove_orphans: bool,
) -> Result<Vec<Found>, Interrupted> {
    service.journal.flush().await;
    let mut things = list_things(service).await?;
    if things.iter().any(is_orphan) {
        let before = things;
        tokio::time::sleep(PAUSE).await;
        things = list_things(service).await?;
        things.retain(|thing| !is_orphan(thing) || before.iter().any(|other| is_same(other, thing)));
    }
    let mut found = Vec::new();
    for thing in things {
        let removed = match &thing.owner {
            Owner::Orphan(orphan) if remove_orphans => Some(remove(service, &thing, orphan).await),
            _ => None,
        };
        found.push(Found { thing: Item::Thing(thing), removed });
    }
    let layers = service.images.layer_uses().into_iter();
    found.extend(layers.map(|layer| Found { thing: Item::Layer(layer), removed: None }));
    Ok(found)
}

fn is_orphan(thing: &Thing) -> bool {
    matches!(thing.owner, Owner::Orphan(_))
}

fn is_same(one: &Thing, other: &Thing) -> bool {
    (one.kind, &one.name) == (other.kind, &other.name) && is_orphan(one)
}

async fn remove(service: &ServiceState, thing: &Thing, orphan: &Orphan) -> Result<(), String> {
    let removed = service.pods.remove_orphan(orphan).await.map_err(|error| error.to_string());
    match &removed {
        Ok(()) => tracing::info!(kind = thing.kind, name = thing.name, "removed what had no owner"),
        Err(error) => {
            tracing::warn!(kind = thing.kind, name = thing.name, error, "cannot remove what has no owner");
        }
    }
    removed
}

async fn list_things(service: &Arc<ServiceState>) -> Result<Vec<Thing>, Interrupted> {
    let service = service.clone();
    let work = move || {
        let known = known_owners(&service);
        let mut things = service.pods.inventory(&known);
        things.extend(folders(&service, &known));
        things
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| Interrupted::ShuttingDown)
}

/// Operations are read before the lists: a new object is in one of them.
fn known_owners(service: &ServiceState) -> KnownOwners {
    let running = service.metrics.operations().list(Duration::ZERO);
    let under_way: HashSet<String> =
        running.iter().map(|info| Subject::parse(&info.subject).id.to_owned()).collect();
    let mut past = HashSet::new();
    let read = service.journal.read(|entry| {
        past.extend([entry.id, entry.pod_id].map(String::from).into_iter().filter(|id| !id.is_empty()));
        ControlFlow::Continue(())
    });
    if let Err(error) = read {
        tracing::warn!(%error, "without the journal it is not known what was this server's");
    }
    let listed = service.containers.all().into_iter().map(|container| container.id().clone());
    // Includes those whose record cannot be read now, and those that were set aside: they may run.
    let folder = service.layout.containers();
    let recorded = paths(&folder).filter(|path| record_in(path).try_exists().unwrap_or(true));
    let recorded =
        recorded.filter_map(|path| ContainerId::parse(path.file_name()?.to_str()?.split('.').next()?).ok());
    let containers = listed.chain(recorded).collect();
    KnownOwners { containers, container_folders: folder, under_way, past }
}

/// The folders of containers, including those that are being created or deleted.
fn folders(service: &ServiceState, known: &KnownOwners) -> Vec<Thing> {
    let (containers, discarded) = (service.layout.containers(), service.layout.discarded());
    let of_containers = paths(&containers).map(|path| folder(&path, of_container(known, &path)));
    let owner = || Owner::Server("it is being made, or deleted".to_owned());
    of_containers.chain(paths(&discarded).map(|path| folder(&path, owner()))).collect()
}

fn paths(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn folder(path: &Path, owner: Owner) -> Thing {
    Thing { kind: "folder", name: path.display().to_string(), owner }
}

fn of_container(known: &KnownOwners, path: &Path) -> Owner {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Ok(id) = ContainerId::parse(&name) else {
        return match is_aside(path) {
            true => Owner::Server("a record that could not be used, kept for people to look at".to_owned()),
            false => Owner::Another("it has no name that this server gives".to_owned()),
        };
    };
    if known.containers.contains(&id) {
        return Owner::Container(id);
    }
    if known.under_way.contains(id.as_str()) {
        return Owner::Server("an operation that is under way".to_owned());
    }
    let why = "no container has its id".to_owned();
    Owner::Orphan(Orphan { why, leftover: Leftover::Folder(path.to_owned()) })
}
