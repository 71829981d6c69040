//! The service Containers, which is not part of the CRI: operations that people use.

use std::pin::Pin;
use std::sync::Arc;

use crisp_executor::cgroup::{Detail, Stats};
use crisp_image_service::Reference;
use crisp_image_service::archive::Changes;
use crisp_proto::crisp::v1::containers_server::Containers;
use crisp_proto::crisp::v1::{
    Change, ChangeKind, CommitContainerReply, CommitContainerRequest, ContainerDetails, ContainerUsage,
    ContainerUsageReply, ContainerUsageRequest, ExecContainerReply, ExecContainerRequest, KillContainerReply,
    KillContainerRequest, ListChangesReply, ListChangesRequest, ListContainersReply, ListContainersRequest,
    ListProcessesReply, ListProcessesRequest, PauseContainerReply, PauseContainerRequest, Process,
    ResetContainerReply, ResetContainerRequest, UnpauseContainerReply, UnpauseContainerRequest,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};

use crate::RuntimeService;
use crate::container::Container;
use crate::container::signal::Signal;
use crate::convert::{self, response};
use crate::error::RuntimeError;
use crate::ops::{
    container_changes, container_commit, container_kill, container_pause, container_processes,
    container_reset,
};
use crate::rpc::streaming;
use crate::spec::command;
use crate::stats::{self, PodReading};

type ChangeReplies = Pin<Box<dyn Stream<Item = Result<ListChangesReply, Status>> + Send>>;
type GrpcResult<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Containers for RuntimeService {
    async fn list(&self, _request: Request<ListContainersRequest>) -> GrpcResult<ListContainersReply> {
        let containers = self.service().containers.all();
        let containers = containers.iter().map(details).collect();
        Ok(Response::new(ListContainersReply { containers }))
    }

    async fn kill(&self, request: Request<KillContainerRequest>) -> GrpcResult<KillContainerReply> {
        let client = client_of(&request);
        let request = request.into_inner();
        let container = self.service().container(&request.container_id)?;
        let signal = Signal::parse(&request.signal);
        let signal =
            signal.map_err(|error| RuntimeError::from(convert::invalid("signal", error.to_string())))?;
        container_kill::kill(self.service(), &container, signal, &client).await?;
        Ok(Response::new(KillContainerReply {}))
    }

    async fn pause(&self, request: Request<PauseContainerRequest>) -> GrpcResult<PauseContainerReply> {
        let container = self.service().container(&request.into_inner().container_id)?;
        container_pause::pause(self.service(), container).await?;
        Ok(Response::new(PauseContainerReply {}))
    }

    async fn unpause(&self, request: Request<UnpauseContainerRequest>) -> GrpcResult<UnpauseContainerReply> {
        let container = self.service().container(&request.into_inner().container_id)?;
        container_pause::unpause(self.service(), container).await?;
        Ok(Response::new(UnpauseContainerReply {}))
    }

    async fn reset(&self, request: Request<ResetContainerRequest>) -> GrpcResult<ResetContainerReply> {
        let container = self.service().container(&request.into_inner().container_id)?;
        container_reset::reset(self.service(), container).await?;
        Ok(Response::new(ResetContainerReply {}))
    }

    async fn exec(&self, request: Request<ExecContainerRequest>) -> GrpcResult<ExecContainerReply> {
        let reply = streaming::exec_with_changes(self.service(), request.into_inner());
        Ok(Response::new(reply?))
    }

    async fn processes(&self, request: Request<ListProcessesRequest>) -> GrpcResult<ListProcessesReply> {
        let container = self.service().container(&request.into_inner().container_id)?;
        let processes = container_processes::processes(self.service(), container).await?;
        Ok(Response::new(ListProcessesReply { processes: processes.into_iter().map(process).collect() }))
    }

    type ChangesStream = ChangeReplies;

    async fn changes(&self, request: Request<ListChangesRequest>) -> GrpcResult<ChangeReplies> {
        let container = self.service().container(&request.into_inner().container_id)?;
        let pieces = container_changes::changes(self.service(), container).await?;
        let replies = ReceiverStream::new(pieces)
            .map(|piece| Ok(ListChangesReply { changes: piece?.into_iter().map(change).collect() }));
        Ok(Response::new(Box::pin(replies)))
    }

    async fn commit(&self, request: Request<CommitContainerRequest>) -> GrpcResult<CommitContainerReply> {
        let request = request.into_inner();
        let container = self.service().container(&request.container_id)?;
        let wrong = |error: String| RuntimeError::from(convert::invalid("tag", error));
        let tag = match request.tag.as_str() {
            "" => None,
            text => Some(Reference::parse(text).map_err(|error| wrong(error.to_string()))?),
        };
        if tag.as_ref().is_some_and(|tag| tag.repo_tag().is_none()) {
            return Err(wrong("has a digest, which a registry gives: expected NAME:TAG".to_owned()).into());
        }
        let changes =
            Changes { instructions: request.changes, author: request.author, comment: request.comment };
        let commit = container_commit::Commit { tag, changes, pause: !request.no_pause };
        let id = container_commit::commit(self.service(), container, commit).await?;
        Ok(Response::new(CommitContainerReply { image_id: id.to_string() }))
    }

    async fn usage(&self, request: Request<ContainerUsageRequest>) -> GrpcResult<ContainerUsageReply> {
        let wanted = request.into_inner().container_ids;
        let service = self.service().clone();
        let read = move || {
            let pods = service.pods.list();
            stats::reading::pods_now(&service, pods, Detail::ALL)
        };
        let pods = tokio::task::spawn_blocking(read).await;
        let pods = pods.map_err(|_| Status::internal("the reading was interrupted"))?;
        let mut containers: Vec<_> = pods.iter().flat_map(usages).collect();
        containers.retain(|usage| wanted.is_empty() || wanted.contains(&usage.container_id));
        Ok(Response::new(ContainerUsageReply { containers }))
    }
}

fn details(container: &Arc<Container>) -> ContainerDetails {
    let status = container.status();
    let shown = response::container_status(container, &container.status());
    let (image, config) = (&container.metadata.image.process, &container.metadata.config);
    let command = command::resolve(&image.entrypoint, &image.cmd, &config.command, &config.args);
    ContainerDetails {
        container_id: shown.id,
        pid: status.state.pid().unwrap_or_default(),
        started_at: shown.started_at,
        finished_at: shown.finished_at,
        exit_code: shown.exit_code,
        reason: shown.reason,
        paused: status.paused,
        command: command.unwrap_or_default(),
    }
}

fn process(process: container_processes::Process) -> Process {
    Process {
        pid: process.pid,
        parent_pid: process.parent,
        uid: process.uid,
        state: process.state.to_string(),
        cpu_nanoseconds: process.cpu_ns,
        started_at: process.started_at,
        resident_bytes: process.resident_bytes,
        command: process.command,
    }
}

fn change(change: container_changes::Change) -> Change {
    let kind = match change.kind {
        container_changes::Kind::Modified => ChangeKind::ChangeModified,
        container_changes::Kind::Added => ChangeKind::ChangeAdded,
        container_changes::Kind::Deleted => ChangeKind::ChangeDeleted,
    };
    Change { path: change.path.to_string_lossy().into_owned(), kind: kind.into() }
}

/// The usage of the containers of a pod that have a cgroup.
fn usages(pod: &PodReading) -> Vec<ContainerUsage> {
    let all = pod.network.iter().flat_map(|network| network.default.iter().chain(&network.others));
    let (received, sent) = all.fold((0, 0), |(received, sent), (_, counters)| {
        (received + counters.rx_bytes, sent + counters.tx_bytes)
    });
    let of = |stats: &Stats, id: String| ContainerUsage {
        container_id: id,
        network_received_bytes: received,
        network_sent_bytes: sent,
        ..usage(stats)
    };
    let read = pod.containers.iter().filter_map(|one| Some((one.cgroup.as_ref()?, &one.container)));
    read.map(|(stats, container)| of(stats, container.id().to_string())).collect()
}

fn usage(stats: &Stats) -> ContainerUsage {
    let devices = || stats.io.iter().flat_map(|io| &io.devices);
    let memory = stats.memory.as_ref();
    ContainerUsage {
        timestamp: stats.timestamp_ns,
        cpu_nanoseconds: stats.cpu.as_ref().map_or(0, |cpu| cpu.usage_ns),
        memory_bytes: memory.map_or(0, |memory| memory.working_set),
        memory_limit_bytes: memory.and_then(|memory| memory.limit).unwrap_or_default(),
        processes: stats.pids.as_ref().map_or(0, |pids| pids.current),
        block_read_bytes: devices().map(|device| device.read_bytes).sum(),
        block_written_bytes: devices().map(|device| device.write_bytes).sum(),
        ..ContainerUsage::default()
    }
}

/// The name of the program at the other end of the socket, for people.
fn client_of<T>(request: &Request<T>) -> String {
    let peer = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
    let Some((pid, peer)) = peer.and_then(|peer| Some((peer.pid()?, peer))) else {
        return "a client that is not known".to_owned();
    };
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name = if name.is_empty() { "a program that has ended" } else { name.trim_end() };
    format!("{name} (process {pid}, user {})", peer.uid())
}
