//! The journal and the list of operations as messages.

use std::time::Duration;

use crisp_metrics::operations::OperationInfo;
use crisp_proto::crisp::v1 as proto;
use crisp_proto::crisp::v1::InventoryOwner;
use crisp_sandbox::inventory::Owner;

use crate::inventory::{Found, Item};
use crate::journal::{Action, Ended, Entry, Kind, Operation};
use crate::notes::Subject;
use crate::service_state::ServiceState;

pub(crate) fn entry(entry: Entry<'static>) -> proto::JournalEntry {
    proto::JournalEntry {
        at: entry.at,
        action: action(entry.action).into(),
        kind: kind(entry.kind).into(),
        id: entry.id.into_owned(),
        name: entry.name.into_owned(),
        attempt: entry.attempt,
        pod_id: entry.pod_id.into_owned(),
        pod: entry.pod.into_owned(),
        namespace: entry.namespace.into_owned(),
        pod_uid: entry.pod_uid.into_owned(),
        image: entry.image.into_owned(),
        exit: entry.exit.map(exit),
        operation: entry.operation.map(operation),
        text: entry.text.into_owned(),
        labels: entry.labels.into_owned(),
    }
}

fn action(action: Action) -> proto::JournalAction {
    match action {
        Action::Create => proto::JournalAction::JournalCreate,
        Action::Start => proto::JournalAction::JournalStart,
        Action::Die => proto::JournalAction::JournalDie,
        Action::Destroy => proto::JournalAction::JournalDestroy,
        Action::Stop => proto::JournalAction::JournalStop,
        Action::Kill => proto::JournalAction::JournalKill,
        Action::Fail => proto::JournalAction::JournalFail,
        Action::Done => proto::JournalAction::JournalDone,
        Action::Note => proto::JournalAction::JournalNote,
    }
}

fn kind(kind: Kind) -> proto::JournalKind {
    match kind {
        Kind::Pod => proto::JournalKind::JournalPod,
        Kind::Container => proto::JournalKind::JournalContainer,
        Kind::Image => proto::JournalKind::JournalImage,
    }
}

fn exit(exit: Ended<'static>) -> proto::JournalExit {
    proto::JournalExit {
        code: exit.code,
        reason: exit.reason.into_owned(),
        started_at: exit.started_at.unwrap_or_default(),
        finished_at: exit.finished_at,
    }
}

fn operation(operation: Operation<'static>) -> proto::JournalOperation {
    let slow = operation.slow.into_iter();
    proto::JournalOperation {
        name: operation.name.into_owned(),
        stage: operation.stage.into_owned(),
        took_nanoseconds: operation.took_ns,
        slow: slow
            .map(|(name, nanoseconds)| proto::StageTime { name: name.into_owned(), nanoseconds })
            .collect(),
    }
}

/// An operation under way, with the names of what it is about, where that is known.
pub(crate) fn running(service: &ServiceState, info: OperationInfo) -> proto::RunningOperation {
    let subject = Subject::parse(&info.subject);
    let (container, pod) = subject.find(service);
    let (mut namespace, mut pod_name) = (subject.namespace.to_owned(), subject.pod.to_owned());
    if let Some(pod) = pod {
        (namespace, pod_name) = (pod.config.namespace.clone(), pod.config.name.clone());
    }
    let name = match (subject.kind, &container) {
        (Kind::Container, Some(container)) => container.metadata.config.name.clone(),
        (Kind::Pod, _) => pod_name.clone(),
        _ => subject.name().to_owned(),
    };
    let id = if subject.kind == Kind::Image { "" } else { subject.id };
    proto::RunningOperation {
        operation: info.operation.to_owned(),
        kind: kind(subject.kind).into(),
        id: id.to_owned(),
        name,
        pod: pod_name,
        namespace,
        since_nanoseconds: nanoseconds(info.since),
        stage: info.stage.to_owned(),
        stage_since_nanoseconds: nanoseconds(info.stage_since),
        left_nanoseconds: info.left.map_or(0, nanoseconds),
        waits_for: info.waits_for.unwrap_or_default(),
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A thing of the inventory, with the name of its owner.
pub(crate) fn item(service: &ServiceState, Found { thing, removed }: Found) -> proto::InventoryItem {
    let (kind, name, (owner, owner_id, owner_name)) = match thing {
        Item::Thing(thing) => (thing.kind, thing.name, owner(service, thing.owner)),
        Item::Layer(layer) => {
            let (owner, name) = match (&layer.images[..], layer.is_in_use) {
                ([], true) => (InventoryOwner::OwnerServer, "of a container, or of a pull".to_owned()),
                ([], false) => {
                    (InventoryOwner::OwnerServer, "kept for the next try of a pull that failed".to_owned())
                }
                (images, _) => (InventoryOwner::OwnerImage, images.join(", ")),
            };
            ("layer", layer.layer, (owner, String::new(), name))
        }
    };
    proto::InventoryItem {
        kind: kind.to_owned(),
        name,
        owner: owner.into(),
        owner_id,
        owner_name,
        removed: matches!(removed, Some(Ok(()))),
        error: removed.and_then(Result::err).unwrap_or_default(),
    }
}

fn owner(service: &ServiceState, owner: Owner) -> (InventoryOwner, String, String) {
    match owner {
        Owner::Pod(id) => {
            let pod = service.pods.get(&id);
            let name = pod.map_or_else(String::new, |p| format!("{}/{}", p.config.namespace, p.config.name));
            (InventoryOwner::OwnerPod, id.into(), name)
        }
        Owner::Container(id) => {
            let container = service.containers.get(&id);
            let name = container.map_or_else(String::new, |container| {
                let pod = service.pod_of(&container).map_or_else(String::new, |pod| pod.config.name.clone());
                format!("{pod}/{}", container.metadata.config.name)
            });
            (InventoryOwner::OwnerContainer, id.into(), name)
        }
        Owner::Server(what) => (InventoryOwner::OwnerServer, String::new(), what),
        Owner::Another(why) => (InventoryOwner::OwnerAnother, String::new(), why),
        Owner::Orphan(orphan) => (InventoryOwner::OwnerNone, String::new(), orphan.why),
    }
}
