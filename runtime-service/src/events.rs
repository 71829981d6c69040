//! What happens to containers and pods, for GetContainerEvents.
//!
//! A kubelet puts what an event says of a pod in place of what it knew, unless that is newer by its timestamp.
//! So an event has the statuses as its change left them, and a time between that change and the next one: see
//! `emitter.rs`.

use std::sync::{Arc, Mutex};

use crisp_sandbox::{Pod, PodStatus};
use tokio::sync::broadcast;

use crate::container::Container;
use crate::container::status::Status;

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
#[derive(Debug, Clone)]
pub struct Event {
    /// A container's id, or the pod's own.
    pub id: String,
    pub kind: Kind,
    /// Nanoseconds since 1970.
    pub at: i64,
    /// None: the container's pod is not known any more.
    pub pod: Option<(Arc<Pod>, Arc<PodStatus>)>,
    /// All containers of the pod.
    pub containers: Vec<(Arc<Container>, Arc<Status>)>,
}

/// Sends events to all subscribers.
#[derive(Debug)]
pub struct Events {
    pub(crate) sender: broadcast::Sender<Event>,
    /// Held while a change is made that has an event.
    pub(crate) lock: Mutex<()>,
}

impl Default for Events {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(BACKLOG), lock: Mutex::default() }
    }
}

impl Events {
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }
}
