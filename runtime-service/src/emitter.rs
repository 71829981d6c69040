//! Serializes changes that have events:
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

/// While it exists, no other change with an event is made.
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
    /// Emits the event of a container's change.
    pub(crate) fn emit(&mut self, kind: Kind, container: &Container) {
        let pod = self.service.pod_of(container);
        let at = clock::now();
        self.service.note_container(kind, at, container, pod.as_deref());
        self.send(at, kind, container.id().as_str(), pod, &container.metadata.pod);
    }

    /// Emits the start and the end of a container whose start had no event yet.
    pub(crate) fn emit_short_life(&mut self, container: &Container) {
        self.emit(Kind::Started, container);
        self.emit(Kind::Stopped, container);
    }

    /// Emits the event of a pod's change, even if the pod is no longer listed.
    pub(crate) fn emit_pod(&mut self, kind: Kind, pod: &Arc<Pod>) {
        let at = clock::now();
        self.service.note_pod(kind, at, pod);
        self.send(at, kind, pod.id.as_str(), Some(pod.clone()), &pod.id);
    }

    /// `at` was taken before the statuses are read: later changes have a later time.
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
        // Fails when the last subscriber has left, which is fine.
        let _ = sender.send(event);
    }
}
