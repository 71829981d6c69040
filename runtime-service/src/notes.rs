//! Makes journal entries: of changes that have events, of refused requests, and of the ends of operations.

use std::borrow::Cow;
use std::sync::Arc;

use crisp_metrics::operations::OperationEnd;
use crisp_operation::clock;
use crisp_sandbox::{Pod, PodState};

use crate::container::Container;
use crate::error::{RuntimeError, has_entry_elsewhere};
use crate::events;
use crate::journal::{Action, Ended, Entry, Kind, Operation};
use crate::service_state::ServiceState;

/// Operations whose failure has no effect, because a later operation does their work.
const UNNOTED: [&str; 1] = ["prepare_container"];

impl<'a> Entry<'a> {
    pub(crate) fn of_pod(action: Action, pod: &'a Pod) -> Self {
        let (id, config) = (pod.id.as_str(), &pod.config);
        Self {
            at: clock::now(),
            action,
            kind: Kind::Pod,
            id: id.into(),
            name: config.name.as_str().into(),
            attempt: config.attempt,
            labels: Cow::Borrowed(&config.labels),
            ..Self::in_pod(pod)
        }
    }

    pub(crate) fn of_container(action: Action, container: &'a Container, pod: Option<&'a Pod>) -> Self {
        let metadata = &container.metadata;
        let image = &metadata.config.image;
        let image =
            if image.user_specified.is_empty() { &metadata.image.name } else { &image.user_specified };
        Self {
            at: clock::now(),
            action,
            kind: Kind::Container,
            id: metadata.id.as_str().into(),
            name: metadata.config.name.as_str().into(),
            attempt: metadata.config.attempt,
            pod_id: metadata.pod.as_str().into(),
            image: image.as_str().into(),
            labels: Cow::Borrowed(&metadata.config.labels),
            ..pod.map(Self::in_pod).unwrap_or_default()
        }
    }

    fn in_pod(pod: &'a Pod) -> Self {
        Self {
            pod_id: pod.id.as_str().into(),
            pod: pod.config.name.as_str().into(),
            namespace: pod.config.namespace.as_str().into(),
            pod_uid: pod.config.uid.as_str().into(),
            ..Self::default()
        }
    }

    /// Adds the exit of the container.
    fn with_exit(mut self, container: &Container) -> Self {
        let status = container.status();
        if let Some(exit) = status.state.exit() {
            self.exit = Some(Ended {
                code: exit.code,
                reason: exit.reason.as_str().into(),
                started_at: exit.started_at,
                finished_at: exit.finished_at,
            });
            self.text = exit.message.clone().into();
        }
        self
    }
}

/// The object of a request that does not exist yet.
pub(crate) struct Requested<'a> {
    pub(crate) operation: &'static str,
    pub(crate) entry: Entry<'a>,
}

impl ServiceState {
    /// Adds an entry for a container's change that has an event.
    pub(crate) fn note_container(
        &self,
        kind: events::Kind,
        at: i64,
        container: &Container,
        pod: Option<&Pod>,
    ) {
        let mut entry = Entry { at, ..Entry::of_container(kind.into(), container, pod) };
        if kind == events::Kind::Stopped {
            entry = entry.with_exit(container);
        }
        self.journal.note(entry);
    }

    /// Adds an entry for a pod's change that has an event.
    pub(crate) fn note_pod(&self, kind: events::Kind, at: i64, pod: &Pod) {
        let mut entry = Entry { at, ..Entry::of_pod(kind.into(), pod) };
        if kind == events::Kind::Stopped {
            entry.text = match &pod.status().state {
                PodState::Degraded { why } | PodState::Failed { why } => why.clone().into(),
                PodState::Lost => {
                    "its monitor ended without being told to, and its containers with it".into()
                }
                _ => Cow::default(),
            };
        }
        self.journal.note(entry);
    }

    /// Adds an entry for a request to a container.
    pub(crate) fn note_request(&self, action: Action, container: &Container, text: String) {
        let pod = self.pod_of(container);
        let entry = Entry::of_container(action, container, pod.as_deref());
        self.journal.note(Entry { text: text.into(), ..entry });
    }

    /// Adds an entry for a request that was refused before an operation began.
    pub(crate) fn note_refusal(&self, what: Requested<'_>, error: &RuntimeError) {
        if has_entry_elsewhere(error) {
            return;
        }
        let operation = Operation { name: what.operation.into(), ..Operation::default() };
        let pod_id = &what.entry.pod_id;
        let pod = if pod_id.is_empty() { None } else { self.pods.find(pod_id).ok() };
        let of_pod = pod.as_deref().map(Entry::in_pod);
        let (action, text) = (Action::Fail, error.to_string().into());
        let mut entry = Entry { at: clock::now(), action, text, operation: Some(operation), ..what.entry };
        if let Some(of_pod) = of_pod {
            let Entry { pod_id, pod, namespace, pod_uid, .. } = of_pod;
            entry = Entry { pod_id, pod, namespace, pod_uid, ..entry };
        }
        self.journal.note(entry);
    }
}

impl From<events::Kind> for Action {
    fn from(kind: events::Kind) -> Self {
        match kind {
            events::Kind::Created => Self::Create,
            events::Kind::Started => Self::Start,
            events::Kind::Stopped => Self::Die,
            events::Kind::Deleted => Self::Destroy,
        }
    }
}

/// From now on, adds an entry for each operation that fails, takes long or has a message.
pub(crate) fn follow_operations(service: &Arc<ServiceState>) {
    let weak = Arc::downgrade(service);
    service.metrics.operations().on_end(move |end| {
        if let Some(service) = weak.upgrade() {
            note_end(&service, end);
        }
    });
}

fn note_end(service: &ServiceState, end: &OperationEnd<'_>) {
    if UNNOTED.contains(&end.operation) {
        return;
    }
    let nanoseconds = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let (stage, reason) =
        end.failure.as_ref().map_or(("", None), |(stage, why)| (*stage, Some(why.as_str())));
    let operation = Operation {
        name: end.operation.into(),
        stage: stage.into(),
        took_ns: nanoseconds(end.took),
        slow: end.slow.iter().map(|(name, took)| ((*name).into(), nanoseconds(*took))).collect(),
    };
    let action = if reason.is_some() { Action::Fail } else { Action::Done };
    let text = reason.or(end.remark.as_deref()).unwrap_or_default().into();
    let subject = Subject::parse(end.subject);
    let (container, pod) = subject.find(service);
    let entry = match (&container, &pod) {
        (Some(container), pod) => Entry::of_container(action, container, pod.as_deref()),
        (None, Some(pod)) if subject.kind == Kind::Pod => Entry::of_pod(action, pod),
        (None, pod) => Entry {
            at: clock::now(),
            action,
            kind: subject.kind,
            id: if subject.kind == Kind::Image { "" } else { subject.id }.into(),
            name: subject.name().into(),
            pod: subject.pod.into(),
            namespace: subject.namespace.into(),
            ..pod.as_deref().map(Entry::in_pod).unwrap_or_default()
        },
    };
    service.journal.note(Entry { text, operation: Some(operation), ..entry });
}

/// The subject of an operation: `container ID (NAMESPACE/POD/NAME)`, `pod ID (NAMESPACE/POD)`, `image NAME
/// (NAMESPACE/POD)`; the parentheses may be missing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Subject<'a> {
    pub(crate) kind: Kind,
    pub(crate) id: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) pod: &'a str,
    pub(crate) container: &'a str,
}

impl<'a> Subject<'a> {
    pub(crate) fn parse(text: &'a str) -> Self {
        let (kind, rest) = text.split_once(' ').unwrap_or(("", text));
        let kind = match kind {
            "container" => Kind::Container,
            "image" => Kind::Image,
            _ => Kind::Pod,
        };
        let (id, names) = rest.split_once(" (").unwrap_or((rest, ""));
        let mut names = names.trim_end_matches(')').splitn(3, '/');
        let mut name = || names.next().unwrap_or_default();
        Self { kind, id, namespace: name(), pod: name(), container: name() }
    }

    pub(crate) fn name(&self) -> &'a str {
        match self.kind {
            Kind::Pod => self.pod,
            Kind::Container => self.container,
            Kind::Image => self.id,
        }
    }

    /// The container and the pod, as far as they are known.
    pub(crate) fn find(&self, service: &ServiceState) -> (Option<Arc<Container>>, Option<Arc<Pod>>) {
        match self.kind {
            Kind::Container => {
                let container = service.containers.find(self.id).ok();
                let pod = container.as_ref().and_then(|container| service.pod_of(container));
                (container, pod.or_else(|| self.pod_by_name(service)))
            }
            Kind::Pod => (None, service.pods.find(self.id).ok()),
            Kind::Image => (None, self.pod_by_name(service)),
        }
    }

    /// The newest pod with the name.
    fn pod_by_name(&self, service: &ServiceState) -> Option<Arc<Pod>> {
        if self.pod.is_empty() {
            return None;
        }
        let is_it = |pod: &Arc<Pod>| pod.config.name == self.pod && pod.config.namespace == self.namespace;
        service.pods.list().into_iter().rfind(is_it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_of_operations_are_read() {
        for (text, kind, id, namespace, pod, name) in [
            ("container ab", Kind::Container, "ab", "", "", ""),
            ("container ab (lab/web/app)", Kind::Container, "ab", "lab", "web", "app"),
            ("pod cd (lab/web)", Kind::Pod, "cd", "lab", "web", "web"),
            ("image a.test/b:1 (lab/web)", Kind::Image, "a.test/b:1", "lab", "web", "a.test/b:1"),
            ("image a.test/b@sha256:00", Kind::Image, "a.test/b@sha256:00", "", "", "a.test/b@sha256:00"),
        ] {
            let subject = Subject::parse(text);
            assert_eq!((subject.kind, subject.id, subject.name()), (kind, id, name), "{text}");
            assert_eq!((subject.namespace, subject.pod), (namespace, pod), "{text}");
        }
    }
}
