//! The service Standalone.

use std::collections::BTreeMap;
use std::sync::Arc;

use crisp_proto::crisp::v1::standalone_server::Standalone;
use crisp_proto::crisp::v1::{
    ListStandaloneRequest, ListStandaloneResponse, RunManifestsRequest, StandaloneEvent, StandalonePod,
    TakeDownRequest,
};
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::super::manifest;
use super::pod::{State, SupervisedPod};
use super::{NamedPod, Supervisor};

/// The implementation of the service.
#[derive(Clone)]
pub struct StandaloneService(pub Supervisor);

type Events = ReceiverStream<Result<StandaloneEvent, Status>>;
type Sender = mpsc::Sender<Result<StandaloneEvent, Status>>;
/// Lines that are kept for a slow client.
const WAITING: usize = 64;

#[tonic::async_trait]
impl Standalone for StandaloneService {
    type RunManifestsStream = Events;
    type TakeDownStream = Events;

    async fn run_manifests(&self, request: Request<RunManifestsRequest>) -> Result<Response<Events>, Status> {
        if let Some(pod) = self.0.pod_of_a_kubelet() {
            let why = format!(
                "a kubelet uses this server (pod {pod} is of one), and removes every pod that it does not know: run manifests with `crisp run`, or under a second `crisp serve` with --listen, --root, --state and --bridge-name of its own"
            );
            return Err(Status::failed_precondition(why));
        }
        let RunManifestsRequest { source, documents, replace } = request.into_inner();
        let documents = documents.iter().map(|text| serde_json::from_str(text)).collect::<Result<_, _>>();
        let documents = documents.map_err(|error| Status::invalid_argument(format!("documents: {error}")))?;
        let manifests = manifest::from_documents(&source, documents)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let supervisor = self.0.clone();
        let (sender, receiver) = mpsc::channel(WAITING);
        // Continues when the client has gone: a pod that was requested is run.
        tokio::spawn(async move {
            if replace {
                take_down(supervisor.same_names(&manifests), false, &sender).await;
            }
            let objects = Arc::new(manifests.objects);
            let mut following = Vec::new();
            for new in manifests.pods {
                let name = new.pod.name.clone();
                match supervisor.add(&source, new, &manifests.others, &objects).await {
                    Ok(Some(pod)) => following.push(tokio::spawn(follow_until_up(pod, sender.clone()))),
                    Ok(None) => send_line(&sender, &name, "is there already, unchanged", false).await,
                    Err(error) => send_line(&sender, &name, &format!("{error:#}"), true).await,
                }
            }
            for task in following {
                let _ = task.await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
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
        let TakeDownRequest { names, kill } = request.into_inner();
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
}

async fn send_line(sender: &Sender, pod: &str, text: &str, is_failure: bool) {
    let event = StandaloneEvent { pod: pod.to_owned(), text: text.to_owned(), is_failure };
    // Fails when the client has gone, which is fine.
    let _ = sender.send(Ok(event)).await;
}

/// Removes the pods at the same time, and waits until they are gone.
async fn take_down(pods: Vec<Arc<SupervisedPod>>, kill: bool, sender: &Sender) {
    let ask = |pod: &Arc<SupervisedPod>| {
        let pod = Arc::clone(pod);
        async move { pod.go_down(kill).await }
    };
    pods.iter().map(ask).collect::<JoinSet<_>>().join_all().await;
    for pod in pods {
        let (_, mut lines) = pod.journal.follow();
        let mut states = pod.state.subscribe();
        let down = states.wait_for(|state| *state == State::Down);
        tokio::select! {
            _ = down => {}
            () = pass_on(&pod, &mut lines, sender) => {}
        }
        send_line(sender, &pod.pod.name, "is down", false).await;
    }
}

/// Sends the events of a new pod, until its containers have started, it has ended, or it could not be run.
async fn follow_until_up(pod: Arc<SupervisedPod>, sender: Sender) {
    let (before, mut lines) = pod.journal.follow();
    for line in before {
        send_line(&sender, &pod.pod.name, &line, false).await;
    }
    let mut states = pod.state.subscribe();
    let names: Vec<String> = pod.pod.containers.iter().map(|container| container.name.clone()).collect();
    let text = tokio::select! {
        () = pod.conditions.all_started(&names) => Ok("is up".to_owned()),
        state = states.wait_for(|state| *state != State::Running) => match state.map(|state| state.clone()) {
            Ok(State::Ended(0)) => Ok("has ended".to_owned()),
            Ok(State::Ended(code)) => Err(format!("has failed with code {code}")),
            Ok(State::Waiting(reason)) => Err(format!("cannot be run, and is tried again: {reason}")),
            Ok(State::Down | State::Running) | Err(_) => Ok("is down".to_owned()),
        },
        () = pass_on(&pod, &mut lines, &sender) => return,
    };
    // The reason is sent before its result.
    while let Ok(line) = lines.try_recv() {
        send_line(&sender, &pod.pod.name, &line, false).await;
    }
    let is_failure = text.is_err();
    send_line(&sender, &pod.pod.name, &text.unwrap_or_else(|text| text), is_failure).await;
}

/// Never returns, unless the pod's journal ends.
async fn pass_on(pod: &SupervisedPod, lines: &mut broadcast::Receiver<String>, sender: &Sender) {
    loop {
        match lines.recv().await {
            Ok(line) => send_line(sender, &pod.pod.name, &line, false).await,
            // A slow client misses lines, but not the end.
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return std::future::pending().await,
        }
    }
}

fn to_proto(pod: &SupervisedPod) -> StandalonePod {
    let conditions = pod.conditions.all();
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let (state, exit_code) = match &*pod.state.borrow() {
        State::Running => ("Running", 0),
        State::Waiting(_) => ("Waiting", 0),
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
    }
}
