//! What happens to containers and pods, for GetContainerEvents.

use crisp_executor::id::PodId;
use tokio::sync::broadcast;

use crisp_operation::clock;

/// A follower that is further behind than this loses the oldest; kubelet then lists everything anew.
const BACKLOG: usize = 4096;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Created,
    Started,
    Stopped,
    Deleted,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// A container's id, or the pod's own.
    pub id: String,
    pub pod: PodId,
    pub kind: Kind,
    /// Nanoseconds since 1970.
    pub at: i64,
}

/// Sends events to all subscribers.
#[derive(Debug)]
pub struct Events {
    sender: broadcast::Sender<Event>,
}

impl Default for Events {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(BACKLOG) }
    }
}

impl Events {
    pub fn emit(&self, kind: Kind, id: &str, pod: &PodId) {
        // Fails without a subscriber, which is fine.
        let _ = self.sender.send(Event { id: id.to_owned(), pod: pod.clone(), kind, at: clock::now() });
    }

    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }
}
