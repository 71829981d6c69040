//! Changes that have events are made one after the other:
//!
//! ```text
//!   emitter ─> status changes ─> emit: time, journal, then statuses of the pod and its containers ─> drop
//! ```

use std::sync::{Arc, MutexGuard, PoisonError};

use crisp_executor::ids::PodId;
use crisp_operation::clock;
use crisp_sandbox::Pod;

use crate::container::Container;
use crate::events::{Event, Events, Kind};
use crate::service_state::ServiceState;

/// While it exists, no other change is made that has an event.
#[must_use]
pub(crate) struct Emitter<'a> {
    service: &'a ServiceState,
    _lock: MutexGuard<'a, ()>,
}

impl ServiceState {
    /// Waits until no other change with an event is under way. Keep the result for one change only.
    pub(crate) fn emitter(&self) -> Emitter<'_> {
        let lock = self.events.lock.lock().unwrap_or_else(PoisonError::into_inner);
        Emitter { service: self, _lock: lock }
    }
}

impl Emitter<'_> {
    /// Tells of a change of a container.
    pub(crate) fn emit(&mut self, kind: Kind, container: &Container) {
        let pod = self.service.pod_of(container);
        let at = clock::now();
        self.service.note_container(kind, at, container, pod.as_deref());
        self.send(at, kind, container.id().as_str(), pod, &container.metadata.pod);
    }

    /// Tells of a start that nothing told of before, and of the end.
    pub(crate) fn emit_short_life(&mut self, container: &Container) {
        self.emit(Kind::Started, container);
        self.emit(Kind::Stopped, container);
    }

    /// Tells of a change of a pod, also of one that is not listed any more.
    pub(crate) fn emit_pod(&mut self, kind: Kind, pod: &Arc<Pod>) {
        let at = clock::now();
        self.service.note_pod(kind, at, pod);
        self.send(at, kind, pod.id.as_str(), Some(pod.clone()), &pod.id);
    }

    /// `at` is from before the statuses are read: what changes after it is newer.
    fn send(&mut self, at: i64, kind: Kind, id: &str, pod: Option<Arc<Pod>>, pod_id: &PodId) {
        let Events { sender, .. } = &self.service.events;
        if sender.receiver_count() == 0 {
            return;
        }
        let event = Event {
            id: id.to_owned(),
            kind,
            at,
            containers: self.service.containers.statuses_of_pod(pod_id),
            pod: pod.map(|pod| {
                let status = pod.status();
                (pod, status)
            }),
        };
        // Fails when the last subscriber has just gone, which is fine.
        let _ = sender.send(event);
    }
}
