//! Events of containers and pods, for GetContainerEvents.
//!
//! kubelet replaces its knowledge of a pod with the statuses in an event, unless its own has a newer
//! timestamp. So an event has the statuses right after its change, and a timestamp between that change and
//! the next one: see `emitter.rs`.

use std::sync::{Arc, Mutex};

use crisp_metrics::Metrics;
use crisp_metrics::prometheus::{self, IntCounter};
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
    /// Readers that were too slow, and the events that they have lost.
    pub(crate) cut: IntCounter,
    pub(crate) lost: IntCounter,
    /// Held while a change is made that has an event.
    pub(crate) lock: Mutex<()>,
}

impl Events {
    /// # Errors
    /// When another metric has the name.
    pub(crate) fn new(metrics: &Metrics) -> Result<Self, prometheus::Error> {
        let cut = IntCounter::new(
            "crisp_event_readers_cut_total",
            "Readers of container events that were too slow and had to connect again.",
        )?;
        let lost = IntCounter::new(
            "crisp_events_lost_total",
            "Container events that those readers did not get; they list everything instead.",
        )?;
        metrics.register(Box::new(cut.clone()))?;
        metrics.register(Box::new(lost.clone()))?;
        Ok(Self { sender: broadcast::Sender::new(BACKLOG), cut, lost, lock: Mutex::default() })
    }

    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }
}
