//! The service Standalone.

use std::collections::BTreeMap;
use std::sync::Arc;

use crisp_proto::crisp::v1::standalone_server::Standalone;
use crisp_proto::crisp::v1::{
    CreateStandaloneRequest, ListStandaloneRequest, ListStandaloneResponse, RunManifestsRequest,
    StandaloneCheck, StandaloneEvent, StandaloneHealth, StandalonePod, StartStandaloneRequest,
    StopStandaloneRequest, TakeDownRequest,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::super::health_status::{Check, Health};
use super::super::image::OF_IMAGE;
use super::super::manifest::{self, Manifests, PodDocument};
use super::events::{
    Sender, follow_new, halt, restart, send_line, start, stay_attached, take_down, take_down_at_rest,
};
use super::pod::{State, SupervisedPod};
use super::{NamedPod, Supervisor};

/// The implementation of the service.
#[derive(Clone)]
pub struct StandaloneService(pub Supervisor);

type Events = ReceiverStream<Result<StandaloneEvent, Status>>;
/// Lines that are kept for a slow client.
const WAITING: usize = 64;

#[tonic::async_trait]
impl Standalone for StandaloneService {
    type RunManifestsStream = Events;
    type CreateStream = Events;
    type TakeDownStream = Events;
    type StopStream = Events;
    type StartStream = Events;
    type RestartStream = Events;

    async fn run_manifests(&self, request: Request<RunManifestsRequest>) -> Result<Response<Events>, Status> {
        let RunManifestsRequest { source, documents, replace, create_only } = request.into_inner();
        if create_only {
            return self.create(Request::new(CreateStandaloneRequest { source, documents, replace })).await;
        }
        let manifests = self.manifests(&source, &documents)?;
        Ok(self.add(source, manifests, replace, false))
    }

    async fn create(&self, request: Request<CreateStandaloneRequest>) -> Result<Response<Events>, Status> {
        let CreateStandaloneRequest { source, documents, replace } = request.into_inner();
        let manifests = self.manifests(&source, &documents)?;
        let is_of_image = |new: &PodDocument| new.pod.annotations.contains_key(OF_IMAGE);
        if !manifests.pods.iter().all(is_of_image) {
            return Err(Status::invalid_argument("a pod of a manifest cannot be created for a later start"));
        }
        Ok(self.add(source, manifests, replace, true))
    }

    async fn list_standalone(
        &self,
        _request: Request<ListStandaloneRequest>,
    ) -> Result<Response<ListStandaloneResponse>, Status> {
        let unreadable = self.0.unreadable().clone();
        let unreadable = unreadable.iter().map(|pod| StandalonePod {
            name: pod.name.clone(),
            namespace: pod.namespace.clone(),
            uid: pod.uid.clone(),
            state: "Unreadable".to_owned(),
            ..StandalonePod::default()
        });
        let pods = self.0.list().iter().map(|pod| to_proto(pod)).chain(unreadable).collect();
        Ok(Response::new(ListStandaloneResponse { pods }))
    }

    async fn take_down(&self, request: Request<TakeDownRequest>) -> Result<Response<Events>, Status> {
        let TakeDownRequest { names, kill, at_rest_only } = request.into_inner();
        let (sender, receiver) = mpsc::channel(WAITING);
        let supervisor = self.0.clone();
        tokio::spawn(async move {
            let (mut pods, mut unreadable) = (BTreeMap::new(), BTreeMap::new());
            for name in names {
                match supervisor.find(&name) {
                    Ok(NamedPod::Pod(pod)) => drop(pods.insert(pod.uid.clone(), pod)),
                    Ok(NamedPod::Unreadable(pod)) => drop(unreadable.insert(pod.uid.clone(), pod)),
                    Err(error) => send_line(&sender, &name, &error.to_string(), true).await,
                }
            }
            if at_rest_only {
                return take_down_at_rest(pods.into_values().collect(), &sender).await;
            }
            for pod in unreadable.into_values() {
                match supervisor.take_down_unreadable(&pod).await {
                    Ok(()) => send_line(&sender, &pod.name, "is down", false).await,
                    Err(error) => send_line(&sender, &pod.name, &format!("{error:#}"), true).await,
                }
            }
            take_down(pods.into_values().collect(), kill, &sender).await;
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn stop(&self, request: Request<StopStandaloneRequest>) -> Result<Response<Events>, Status> {
        let StopStandaloneRequest { name, timeout } = request.into_inner();
        let pod = self.image_run(&name)?;
        Ok(events(|sender| async move { halt(&pod, timeout, &sender).await }))
    }

    async fn start(&self, request: Request<StartStandaloneRequest>) -> Result<Response<Events>, Status> {
        let StartStandaloneRequest { name, attach } = request.into_inner();
        let pod = self.image_run(&name)?;
        let supervisor = self.0.clone();
        Ok(events(|sender| async move {
            let _attachment = attach.then(|| pod.attach());
            start(&pod, &sender).await;
            if attach && let Some(id) = supervisor.container_of(&pod).await {
                stay_attached(&pod.pod.name, id, &sender).await;
            }
        }))
    }

    async fn restart(&self, request: Request<StopStandaloneRequest>) -> Result<Response<Events>, Status> {
        let StopStandaloneRequest { name, timeout } = request.into_inner();
        let pod = self.image_run(&name)?;
        Ok(events(|sender| async move { restart(&pod, timeout, &sender).await }))
    }
}

impl StandaloneService {
    fn manifests(&self, source: &str, documents: &[String]) -> Result<Manifests, Status> {
        if let Some(pod) = self.0.pod_of_a_kubelet() {
            let why = format!(
                "a kubelet uses this server (pod {pod} is of one), and removes every pod that it does not know: run manifests with `crisp run`, or under a second `crisp serve` with --listen, --root, --state and --bridge-name of its own"
            );
            return Err(Status::failed_precondition(why));
        }
        let documents = documents.iter().map(|text| serde_json::from_str(text)).collect::<Result<_, _>>();
        let documents = documents.map_err(|error| Status::invalid_argument(format!("documents: {error}")))?;
        manifest::from_documents(source, documents)
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }

    /// Adds the pods. Goes on when the client has gone: a pod that was requested is run.
    fn add(
        &self,
        source: String,
        manifests: Manifests,
        replace: bool,
        create_only: bool,
    ) -> Response<Events> {
        let supervisor = self.0.clone();
        events(|sender| async move {
            if replace {
                take_down(supervisor.same_names(&manifests), false, &sender).await;
            }
            let objects = Arc::new(manifests.objects);
            let mut following = Vec::new();
            for new in manifests.pods {
                let name = new.pod.name.clone();
                match supervisor.add(&source, new, &manifests.others, &objects, create_only).await {
                    Ok(Some(pod)) => following.push(tokio::spawn(follow_new(pod, sender.clone()))),
                    Ok(None) => send_line(&sender, &name, "is there already, unchanged", false).await,
                    Err(error) => send_line(&sender, &name, &format!("{error:#}"), true).await,
                }
            }
            for task in following {
                let _ = task.await;
            }
        })
    }

    /// The pod of a `crisp run IMAGE`.
    fn image_run(&self, name: &str) -> Result<Arc<SupervisedPod>, Status> {
        match self.0.find(name) {
            Ok(NamedPod::Pod(pod)) if pod.pod.annotations.contains_key(OF_IMAGE) => Ok(pod),
            Ok(_) => Err(Status::failed_precondition(format!(
                "{name} is not of a `crisp run IMAGE`: crisp down takes it down, and crisp up runs its manifest"
            ))),
            Err(error) => Err(Status::not_found(error.to_string())),
        }
    }
}

/// The events of `work`, which goes on when the client has gone.
fn events<F: Future<Output = ()> + Send + 'static>(work: impl FnOnce(Sender) -> F) -> Response<Events> {
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(work(sender));
    Response::new(ReceiverStream::new(receiver))
}

fn to_proto(pod: &SupervisedPod) -> StandalonePod {
    let conditions = pod.conditions.all();
    let is_of_image = pod.pod.annotations.contains_key(OF_IMAGE);
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let (state, exit_code) = match &*pod.state.borrow() {
        State::Running => ("Running", 0),
        State::Waiting(_) => ("Waiting", 0),
        State::Stopped => ("Stopped", 0),
        State::Ended(0) => ("Succeeded", 0),
        State::Ended(code) => ("Failed", *code),
        State::Down => ("Down", 0),
    };
    StandalonePod {
        name: pod.pod.name.clone(),
        namespace: pod.pod.namespace.clone(),
        uid: pod.uid.clone(),
        source: pod.source.clone(),
        state: state.to_owned(),
        containers: count(pod.pod.containers.len()),
        ready: count(conditions.values().filter(|condition| condition.is_ready).count()),
        restarts: conditions.values().map(|condition| condition.restarts).sum(),
        exit_code: exit_code.into(),
        health: conditions
            .into_values()
            .find_map(|condition| condition.health)
            .filter(|_| is_of_image)
            .map(health),
    }
}

fn health(health: Health) -> StandaloneHealth {
    let check = |check: Check| StandaloneCheck {
        began_at: check.began_at,
        ended_at: check.ended_at,
        failure: check.failure,
    };
    StandaloneHealth {
        status: health.status.word().to_owned(),
        failing_streak: health.failing_streak,
        checks: health.checks.into_iter().map(check).collect(),
    }
}
