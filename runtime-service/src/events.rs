//! Events of containers and pods, for GetContainerEvents.
//!
//! kubelet replaces its knowledge of a pod with the statuses in an event, unless its own has a newer
//! timestamp. So an event has the statuses right after its change, and a timestamp between that change and
//! the next one: see `emitter.rs`.

use std::sync::{Arc, Mutex};

use crisp_sandbox::{Pod, PodStatus};
use tokio::sync::broadcast;

use crate::container::Container;
use crate::container::status::Status;

/// A subscriber that is further behind loses the oldest events; kubelet then lists everything again.
const BACKLOG: usize = 4096;

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Created,
    Started,
    Stopped,
    Deleted,
}

/// One event.
#[derive(Debug, Clone)]
pub struct Event {
    /// A container's id, or the pod's own.
    pub id: String,
    pub kind: Kind,
    /// Nanoseconds since 1970.
    pub at: i64,
    /// None when the container's pod is gone.
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
