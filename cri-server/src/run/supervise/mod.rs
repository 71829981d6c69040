//! Standalone pods under a server: `crisp run -d`, `create`, `up`, `down`, `stop` and `start`.
//!
//! ```text
//!  crisp run -d --gRPC (service.rs)--> Supervisor --supervision.rs, one task each--> pod_run.rs
//!                                          |  ^
//!                                   record.rs, on disk: after a restart of the server, or of the machine
//! ```
//!
//! The task of a pod ends with the server, but its containers continue; the next server finds and supervises
//! them.

mod events;
mod halt;
mod pod;
pub mod record;
mod rest;
mod resume;
mod service;
mod supervision;
mod unreadable;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use crisp_executor::ids::PodId;
use crisp_operation::clock;
use crisp_runtime_service::journal::{Action, Entry, Kind};
use serde_json::Value;

use super::container_find;
use super::manifest::{Manifests, Objects, Pod, PodDocument, used};
use super::pod_start::Found;
use crate::server::{Server, layout};
pub use pod::{State, SupervisedPod};
use record::PodRecord;
pub use service::StandaloneService;
pub use unreadable::Unreadable;

/// All pods that this server supervises. Clones share them.
#[derive(Clone)]
pub struct Supervisor {
    server: Arc<Server>,
    root: PathBuf,
    pods: Arc<Mutex<BTreeMap<String, Arc<SupervisedPod>>>>,
    unreadable: Arc<Mutex<Vec<Arc<Unreadable>>>>,
    adding: Arc<tokio::sync::Mutex<()>>,
}

/// The pod with a name.
pub enum NamedPod {
    Pod(Arc<SupervisedPod>),
    Unreadable(Arc<Unreadable>),
}

/// kubelet writes the source of a pod into this annotation: file, api or http.
const OF_A_KUBELET: &str = "kubernetes.io/config.source";
/// Limit: each pod is a task with a sandbox, and has documents on disk.
const MOST_PODS: usize = 1000;

impl Supervisor {
    /// Continues with the pods of an earlier server.
    pub fn open(server: Arc<Server>, root: &Path) -> Self {
        let supervisor = Self {
            server,
            root: root.to_owned(),
            pods: Arc::default(),
            unreadable: Arc::default(),
            adding: Arc::default(),
        };
        let pods = layout::supervised_pods(root);
        let records = record::read_all(&pods).unwrap_or_else(|error| {
            // The other pods of the node must not wait for that.
            tracing::error!(path = %pods.display(), %error, "no standalone pod is supervised");
            Vec::new()
        });
        let mut shared = BTreeMap::new();
        for (uid, record) in records {
            let read = record.map_err(anyhow::Error::from);
            match read.and_then(|record| SupervisedPod::new(&record, &pods, &mut shared)) {
                Ok(pod) => drop(supervisor.start(pod)),
                Err(error) => {
                    let why = format!("{error:#}");
                    tracing::warn!(uid, error = why, "a standalone pod is not supervised");
                    supervisor.unreadable().push(Arc::new(Unreadable::new(&pods, &uid, why)));
                }
            }
        }
        supervisor
    }

    /// Pods that cannot be supervised.
    pub fn unreadable(&self) -> MutexGuard<'_, Vec<Arc<Unreadable>>> {
        self.unreadable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes one of them.
    ///
    /// # Errors
    /// It still exists; the call can be repeated.
    pub async fn take_down_unreadable(&self, pod: &Unreadable) -> anyhow::Result<()> {
        pod.take_down(&self.server, &self.root).await?;
        self.unreadable().retain(|other| other.uid != pod.uid);
        Ok(())
    }

    /// The name of a running pod that a kubelet made.
    pub fn pod_of_a_kubelet(&self) -> Option<String> {
        let pods = self.server.pods.list();
        let is_of_one = |pod: &&Arc<crisp_sandbox::Pod>| {
            pod.config.annotations.contains_key(OF_A_KUBELET) && pod.require_ready().is_ok()
        };
        pods.iter().find(is_of_one).map(|pod| pod.config.name.clone())
    }

    /// The pods, by namespace and name.
    pub fn list(&self) -> Vec<Arc<SupervisedPod>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// A pod by NAME, NAMESPACE/NAME or uid.
    ///
    /// # Errors
    /// No pod, or more than one, has the name.
    pub fn find(&self, name: &str) -> anyhow::Result<NamedPod> {
        let is_meant =
            |key: &str, uid: &str| key == name || uid == name || key.rsplit('/').next() == Some(name);
        let pods = self.list().into_iter().filter(|pod| is_meant(&pod.key(), &pod.uid)).map(NamedPod::Pod);
        let unreadable = self.unreadable().clone();
        let unreadable = unreadable.into_iter().filter(|pod| is_meant(&pod.key(), &pod.uid));
        let mut found: Vec<_> = pods.chain(unreadable.map(NamedPod::Unreadable)).collect();
        match found.len() {
            0 => anyhow::bail!("no standalone pod is called {name}: crisp up, without a file, lists them"),
            1 => Ok(found.remove(0)),
            _ => anyhow::bail!("several standalone pods are called {name}: give NAMESPACE/NAME"),
        }
    }

    /// Records a pod, and runs it unless it is only to be created. Returns None when the same pod with the same
    /// document already exists.
    ///
    /// # Errors
    /// Another pod has the name, or the record cannot be written; nothing is started then.
    pub async fn add(
        &self,
        source: &str,
        new: PodDocument,
        documents: &[Value],
        objects: &Arc<Objects>,
        create_only: bool,
    ) -> anyhow::Result<Option<Arc<SupervisedPod>>> {
        // Keeps other calls from taking a name or uid that is free now. Lists do not wait for it.
        let _adding = self.adding.lock().await;
        let record = PodRecord {
            uid: new.pod.uid.clone().unwrap_or_else(|| PodId::random().short().to_owned()),
            objects: used(&new.pod, documents),
            document: new.document,
            source: source.to_owned(),
            is_created: create_only,
        };
        if self.is_there(&new.pod, &record)? {
            return Ok(None);
        }
        let pods = layout::supervised_pods(&self.root);
        let write = move || {
            record.write(&pods).context("cannot record the pod")?;
            let status = record::status(&pods, &record)?;
            anyhow::Ok((record, status))
        };
        let (record, status) = tokio::task::spawn_blocking(write).await??;
        Ok(Some(self.start(SupervisedPod::with_objects(&record, new.pod, Arc::clone(objects), status))))
    }

    /// The newest container of a pod of one container.
    pub async fn container_of(&self, pod: &SupervisedPod) -> Option<String> {
        let found = pod.to_run(&self.server, &self.root).find();
        let (Found::Ready(id) | Found::Silent(id) | Found::Ended(id)) = found else { return None };
        let name = &pod.pod.containers.first()?.name;
        let newest = container_find::newest(&self.server, &id, name).await.ok()??;
        Some(newest.id)
    }

    /// Whether the same pod already exists.
    fn is_there(&self, new: &Pod, record: &PodRecord) -> anyhow::Result<bool> {
        let key = format!("{}/{}", new.namespace, new.name);
        let all: Vec<_> = self.list().into_iter().filter(|pod| *pod.state.borrow() != State::Down).collect();
        if let Some(there) = all.iter().find(|there| there.key() == key) {
            let is_same = there.is_of(record) && !there.stop.now().is_any();
            anyhow::ensure!(
                is_same,
                "there is a standalone pod called {key} already: --replace takes it down first"
            );
            return Ok(true);
        }
        let uid = &record.uid;
        let unreadable = self.unreadable().clone();
        if let Some(there) = unreadable.iter().find(|there| there.key() == key || there.uid == *uid) {
            let Unreadable { uid, why, .. } = &**there;
            anyhow::bail!(
                "there is a standalone pod called {key} whose record cannot be used: crisp down {uid} takes it down ({why})"
            );
        }
        anyhow::ensure!(
            !all.iter().any(|other| other.uid == *uid),
            "metadata.uid: another standalone pod has the uid {uid}"
        );
        anyhow::ensure!(all.len() < MOST_PODS, "there are {MOST_PODS} standalone pods: no more are accepted");
        Ok(false)
    }

    fn start(&self, pod: SupervisedPod) -> Arc<SupervisedPod> {
        let pod = Arc::new(pod);
        self.keep_notes(&pod);
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.insert(pod.key(), Arc::clone(&pod));
        let (all, task) = (Arc::clone(&self.pods), Arc::clone(&pod));
        let (server, root) = (Arc::clone(&self.server), self.root.clone());
        tokio::spawn(async move {
            Arc::clone(&task).supervise(server, root).await;
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            // A newer pod may have its name by now.
            if all.get(&task.key()).is_some_and(|there| Arc::ptr_eq(there, &task)) {
                all.remove(&task.key());
            }
        });
        pod
    }

    /// Keeps messages about the pod (failed probes, restarts) with the server's events, for `crisp why`.
    fn keep_notes(&self, pod: &SupervisedPod) {
        let runtime = self.server.runtime.clone();
        let (name, namespace, uid) = (pod.pod.name.clone(), pod.pod.namespace.clone(), pod.uid.clone());
        pod.journal.keep_in(move |line| {
            runtime.journal().note(Entry {
                at: clock::now(),
                action: Action::Note,
                kind: Kind::Pod,
                name: name.as_str().into(),
                pod: name.as_str().into(),
                namespace: namespace.as_str().into(),
                pod_uid: uid.as_str().into(),
                text: line.into(),
                ..Entry::default()
            });
        });
    }

    /// The existing pods with the names of these documents.
    pub fn same_names(&self, manifests: &Manifests) -> Vec<Arc<SupervisedPod>> {
        let named = |there: &Arc<SupervisedPod>| {
            let same = |new: &PodDocument| {
                new.pod.name == there.pod.name && new.pod.namespace == there.pod.namespace
            };
            manifests.pods.iter().any(same)
        };
        self.list().into_iter().filter(named).collect()
    }
}
