//! One pod that the server supervises.
//!
//! ```text
//!            .--> Running --(ends by itself)--> Ended --(a client starts it)--> Running
//!  record ---+       |  ^  '--(a client stops it)--> Stopped --(starts it, at once for a restart)--> Running
//!            |  fails|  |back-off
//!            '-------+--'                               (taken down: at any time, from every state)
//! ```

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::path::Path;
use std::sync::Arc;

use crisp_operation::StatusCell;
use serde_json::Value;
use tokio::sync::watch;

use super::super::context::Conditions;
use super::super::image::{ALWAYS, OF_IMAGE};
use super::super::manifest::{Objects, Pod};
use super::super::pod_run::PodRun;
use super::super::report::{Journal, Report};
use super::super::run_status::{RunStatus, change};
use super::super::stop_request::StopRequests;
use super::record::{self, PodRecord};
use crate::server::{Server, layout};

/// The exit code of a pod that is being removed. It is not shown.
const TAKEN_DOWN: u8 = 143;

/// The state of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Running,
    /// It could not be run, or was lost, for this reason, and will be tried again.
    Waiting(String),
    /// A client has stopped it.
    Stopped,
    Ended(u8),
    Down,
}

/// The request of a client that the containers end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halt {
    /// Seconds between the stop signal and the kill; without it those of the pod.
    pub grace: Option<u32>,
    pub then: Then,
}

/// The step after the containers have ended at the request of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Then {
    /// They wait until a client starts them.
    Rest,
    /// They are started.
    Start,
    /// They were to be started and could not, for this reason.
    NotStarted(String),
}

/// A pod and the data for its supervision.
pub struct SupervisedPod {
    pub pod: Pod,
    pub uid: String,
    pub source: String,
    /// Ends and removes it.
    pub stop: StopRequests,
    pub conditions: Conditions,
    pub journal: Arc<Journal>,
    pub state: watch::Sender<State>,
    pub(super) status: StatusCell<RunStatus>,
    /// None: it runs.
    pub(super) halts: watch::Sender<Option<Halt>>,
    /// Keeps the status and `halts` equal when two clients stop and start it.
    pub(super) halting: tokio::sync::Mutex<()>,
    /// Clients that follow its end: it is not removed before they have seen it.
    pub(super) attached: watch::Sender<usize>,
    objects: Arc<Objects>,
    /// Digest of its documents, which may be large and are on disk.
    digest: u64,
}

impl SupervisedPod {
    /// The pod of this record with its status from the folder `pods`; nothing runs yet. `shared` has objects
    /// that other pods use too.
    ///
    /// # Errors
    /// The record has no valid pod, or the status cannot be read.
    pub fn new(
        record: &PodRecord,
        pods: &Path,
        shared: &mut BTreeMap<u64, Arc<Objects>>,
    ) -> anyhow::Result<Self> {
        let mut manifests = record.manifests()?;
        let pod = manifests.pods.remove(0).pod;
        let objects = shared.entry(digest(&record.objects)).or_insert_with(|| Arc::new(manifests.objects));
        let objects = Arc::clone(objects);
        let status = record::status(pods, record)?;
        Ok(Self::with_objects(record, pod, objects, status))
    }

    /// Like [`new`](Self::new), with objects that were already read.
    pub fn with_objects(
        record: &PodRecord,
        pod: Pod,
        objects: Arc<Objects>,
        status: StatusCell<RunStatus>,
    ) -> Self {
        let stop = StopRequests::new();
        if status.get().is_going_down {
            stop.stop_with(TAKEN_DOWN);
        }
        // Also one that was stopped: its container may still have to be created, or to end.
        let state = status.get().ended.map_or(State::Running, State::Ended);
        Self {
            journal: Arc::new(Journal::new(pod.name.clone())),
            stop,
            conditions: Conditions::new(),
            state: watch::Sender::new(state),
            halts: watch::Sender::new(recorded_halt(&pod, &status.get())),
            halting: tokio::sync::Mutex::default(),
            attached: watch::Sender::new(0),
            status,
            objects,
            digest: digest(record.documents()),
            uid: record.uid.clone(),
            source: record.source.clone(),
            pod,
        }
    }

    /// `NAMESPACE/NAME`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.pod.namespace, self.pod.name)
    }

    /// Whether it was made from the same documents.
    pub fn is_of(&self, record: &PodRecord) -> bool {
        self.digest == digest(record.documents())
    }

    /// Requests the removal of the pod. The request is written to disk first, so that a starting server
    /// continues with it. A repeated request changes nothing, except that `kill` ends the grace period.
    pub async fn go_down(&self, kill: bool) {
        if let Err(error) = change(&self.status, |status| status.is_going_down = true).await {
            // A full disk must not prevent the removal of a pod.
            self.report().emit(format_args!("{error:#}: a restart of the server would forget this"));
        }
        self.stop.stop_with(TAKEN_DOWN);
        if kill {
            self.stop.signal(TAKEN_DOWN);
        }
    }

    pub(super) fn report(&self) -> Report {
        Report::Journal(Arc::clone(&self.journal))
    }

    pub(super) fn to_run(&self, server: &Arc<Server>, root: &Path) -> PodRun {
        PodRun {
            server: Arc::clone(server),
            pod: self.pod.clone(),
            objects: Arc::clone(&self.objects),
            uid: self.uid.clone(),
            folder: layout::supervised_pod(root, &self.uid),
            named_volumes: layout::named_volumes(root),
            status: self.status.clone(),
            stop: self.stop.clone(),
            report: self.report(),
            screen: None,
            conditions: self.conditions.clone(),
            is_supervised: true,
            creates_only: false,
        }
    }
}

/// The halt that an earlier server was asked for. As with docker, `--restart always` starts a stopped container
/// when the server starts.
fn recorded_halt(pod: &Pod, status: &RunStatus) -> Option<Halt> {
    let is_always = pod.annotations.get(OF_IMAGE).is_some_and(|policy| policy == ALWAYS);
    let is_started = status.is_restarting || (is_always && !status.is_created);
    let then = if is_started { Then::Start } else { Then::Rest };
    status.is_stopped.then_some(Halt { grace: status.stop_grace, then })
}

fn digest<'a>(documents: impl IntoIterator<Item = &'a Value>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for document in documents {
        document.to_string().hash(&mut hasher);
    }
    hasher.finish()
}
