//! One pod that the server supervises.
//!
//! ```text
//!            .--> Running --(ends by itself)--> Ended
//!  record ---+       |  ^
//!            |  fails|  |back-off                       (taken down: at any time, from every state)
//!            '-------+--'
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
use super::super::manifest::{Objects, Pod};
use super::super::pod_run::PodRun;
use super::super::report::{Journal, Report};
use super::super::run_status::{RunStatus, change};
use super::super::stop_request::StopRequests;
use super::record::{self, PodRecord};
use crate::server::{Server, layout};

/// The exit code of a pod that is taken down. It is shown nowhere.
const TAKEN_DOWN: u8 = 143;

/// How it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Running,
    /// It could not be run, or is lost, for this reason, and is tried again.
    Waiting(String),
    Ended(u8),
    Down,
}

/// A pod with what its supervision needs.
pub struct SupervisedPod {
    pub pod: Pod,
    pub uid: String,
    pub source: String,
    /// Takes it down.
    pub stop: StopRequests,
    pub conditions: Conditions,
    pub journal: Arc<Journal>,
    pub state: watch::Sender<State>,
    pub(super) status: StatusCell<RunStatus>,
    objects: Arc<Objects>,
    /// Of its documents, which are on disk: they may be large.
    digest: u64,
}

impl SupervisedPod {
    /// The pod of this record, with what is known of it in the folder `pods`; nothing is run yet. What it uses is
    /// `shared` with other pods that use the same.
    ///
    /// # Errors
    /// The record has no pod that can be run, or the status cannot be read.
    pub fn new(
        record: &PodRecord,
        pods: &Path,
        shared: &mut BTreeMap<u64, Arc<Objects>>,
    ) -> anyhow::Result<Self> {
        let mut manifests = record.manifests()?;
        let pod = manifests.pods.remove(0).pod;
        let objects = shared.entry(digest(&record.objects)).or_insert_with(|| Arc::new(manifests.objects));
        let objects = Arc::clone(objects);
        let status = record::status(pods, &record.uid)?;
        Ok(Self::with_objects(record, pod, objects, status))
    }

    /// As [`new`](Self::new), of what was read already.
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
        let state = status.get().ended.map_or(State::Running, State::Ended);
        Self {
            journal: Arc::new(Journal::new(pod.name.clone())),
            stop,
            conditions: Conditions::new(),
            state: watch::Sender::new(state),
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

    /// Whether it was made of the same documents.
    pub fn is_of(&self, record: &PodRecord) -> bool {
        self.digest == digest(record.documents())
    }

    /// Asks it to go down: on disk first, so that a server that starts meanwhile goes on with that. Asked for twice,
    /// it is the same request: only `kill` does not wait for the grace period.
    pub async fn go_down(&self, kill: bool) {
        if let Err(error) = change(&self.status, |status| status.is_going_down = true).await {
            // A full disk must not keep a pod from going down.
            self.report().say(format_args!("{error:#}: a restart of the server would forget this"));
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
        }
    }
}

fn digest<'a>(documents: impl IntoIterator<Item = &'a Value>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for document in documents {
        document.to_string().hash(&mut hasher);
    }
    hasher.finish()
}
