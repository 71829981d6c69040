//! The journal and the list of operations as messages.

use std::time::Duration;

use crisp_metrics::operations::OperationInfo;
use crisp_proto::crisp::v1 as proto;

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
