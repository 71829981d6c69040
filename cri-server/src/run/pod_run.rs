//! One attempt to run a pod: images, volumes, the sandbox, its containers. Pods in the foreground and
//! supervised pods share this; their callers decide what follows.
//!
//! ```text
//!  PodRun --> images, volumes --> sandbox (or the one that is there) --> containers_run.rs --> Outcome
//!                 |  a stop request meanwhile                                ^
//!                 '--> the containers that are there are stopped in order ---'
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use crisp_operation::{StatusCell, clock};

use super::context::{Conditions, Context, Screen};
use super::manifest::{Objects, Pod, RestartPolicy};
use super::pod_fields::PodFields;
use super::pod_start::{self, Found, Sandbox};
use super::report::Report;
use super::run_status::{RunStatus, change};
use super::stop_request::{DEADLINE, EVICTED, LOST, StopRequest, StopRequests};
use super::volumes::{Existing, VolumeRequest, Volumes, exceeded};
use super::wait::Waiter;
use super::{containers_run, pod_join, pull};
use crate::rpc_error::refused;
use crate::server::{Server, layout};

/// Time limit for all volumes of a pod: a volume on a dead file system must not hang the run.
const VOLUMES: Duration = Duration::from_secs(30);
/// Time limit for the containers of a lost sandbox to end by themselves.
const LOST_CONTAINERS: Duration = Duration::from_secs(2);

/// A pod to run, with its options.
#[derive(Clone)]
pub struct PodRun {
    pub server: Arc<Server>,
    pub pod: Pod,
    /// The objects that it uses.
    pub objects: Arc<Objects>,
    pub uid: String,
    /// A folder that belongs to this pod only.
    pub folder: PathBuf,
    /// The folder of named volumes.
    pub named_volumes: PathBuf,
    pub status: StatusCell<RunStatus>,
    pub stop: StopRequests,
    pub report: Report,
    /// The screen that shows its output.
    pub screen: Option<Screen>,
    pub conditions: Conditions,
    /// A server runs it: existing containers and volumes are kept.
    pub is_supervised: bool,
    /// Its containers are created and not started.
    pub creates_only: bool,
}

/// The end of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The containers have ended or were stopped. The sandbox exists if it was started.
    Ended(u8),
    /// The sandbox is gone, together with containers that should run.
    Lost(u8),
}

impl Outcome {
    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Ended(code) | Self::Lost(code) => code,
        }
    }
}

impl PodRun {
    /// The present sandbox of the pod.
    pub fn find(&self) -> Found {
        pod_start::find(&self.server, &self.uid, &self.folder)
    }

    /// The same, but one without running containers whose network is gone counts as ended: nothing can be started
    /// in it that others reach.
    pub async fn find_intact(&self) -> Found {
        match self.find() {
            Found::Ready(id) if pod_join::is_cut_off(&self.server, &id).await => Found::Ended(id),
            found => found,
        }
    }
}

/// Runs the pod until its containers have ended.
///
/// # Errors
/// Any failure except that of a container. Everything that was started stays for the next attempt.
pub async fn once(run: &PodRun) -> anyhow::Result<Outcome> {
    let Some(limit) = run.pod.active_deadline else { return attempt(run).await };
    // Pulls and volumes count, and so do earlier servers and attempts.
    let now = clock::now();
    change(&run.status, move |status| status.begun_at = status.begun_at.or(Some(now))).await?;
    let passed = now.saturating_sub(run.status.get().begun_at.unwrap_or(now)).max(0).unsigned_abs();
    let deadline = async {
        tokio::time::sleep(limit.saturating_sub(Duration::from_nanos(passed))).await;
        let seconds = limit.as_secs();
        run.report.emit(format_args!("the pod has run for {seconds} s, its activeDeadlineSeconds"));
        run.stop.stop_with(DEADLINE);
        std::future::pending().await
    };
    tokio::select! {
        outcome = attempt(run) => outcome,
        outcome = deadline => outcome,
    }
}

async fn attempt(run: &PodRun) -> anyhow::Result<Outcome> {
    let found = if run.is_supervised { run.find_intact().await } else { Found::Nothing };
    if matches!(found, Found::Silent(_)) && !run.stop.now().is_any() {
        // Nothing is changed: containers still use it.
        bail!("the pod's monitor does not answer; its containers very likely run");
    }
    let is_running = matches!(found, Found::Ready(_));
    let fields = PodFields::of(&run.pod, &run.uid);
    let (images, volumes) = tokio::select! {
        biased;
        request = run.stop.wait_for(StopRequest::is_any) => {
            stop_containers(run).await?;
            return Ok(Outcome::Ended(request.code().unwrap_or_default()));
        }
        prepared = prepare(run, &found, &fields) => prepared?,
    };
    let logs = layout::run_logs(&run.folder);
    let sandbox = match pod_start::start(&run.server, &run.pod, &run.uid, &logs, found, &run.stop).await {
        Ok(sandbox) => sandbox,
        Err(status) => {
            volumes.undo();
            let failed =
                || Err(refused(status)).with_context(|| format!("cannot start pod {}", run.pod.name));
            return run.stop.now().code().map_or_else(failed, |code| Ok(Outcome::Ended(code)));
        }
    };
    if run.pod.restart_policy == RestartPolicy::Never {
        change(&run.status, |status| status.has_started = true).await?;
    }
    let addresses: Vec<_> = sandbox.addresses.iter().map(ToString::to_string).collect();
    run.report.routine(format_args!("pod {} runs {}", run.pod.name, place(sandbox.is_on_host, &addresses)));
    let hosts = pod_start::write_hosts(&run.server, &run.pod, &sandbox.id, &run.folder, is_running)?;
    let mut context = context(run, sandbox, images, volumes).await;
    context.hosts = hosts;
    within_limits(&Arc::new(context)).await
}

/// Stops the containers of an existing pod in the same way as during a run: hooks, grace period, sidecars
/// last. Starts none.
///
/// # Errors
/// A container cannot be stopped.
pub async fn stop_containers(run: &PodRun) -> anyhow::Result<()> {
    let found = run.find();
    let (Found::Ready(_) | Found::Silent(_)) = &found else { return Ok(()) };
    let logs = layout::run_logs(&run.folder);
    let sandbox = pod_start::start(&run.server, &run.pod, &run.uid, &logs, found, &run.stop).await;
    let volumes = Volumes::none(layout::run_volumes(&run.folder));
    let context = context(run, sandbox.map_err(refused)?, BTreeMap::new(), volumes).await;
    containers_run::run(&Arc::new(context)).await.map(drop)
}

async fn context(
    run: &PodRun,
    sandbox: Sandbox,
    images: BTreeMap<String, String>,
    volumes: Volumes,
) -> Context {
    let pod = Pod { host_network: sandbox.is_on_host, ..run.pod.clone() };
    Context {
        server: Arc::clone(&run.server),
        objects: Arc::clone(&run.objects),
        uid: run.uid.clone(),
        fields: PodFields::of(&pod, &run.uid).with_addresses(sandbox.addresses),
        pod,
        id: sandbox.id,
        sandbox: sandbox.config,
        images,
        volumes,
        folder: run.folder.clone(),
        hosts: None,
        waiter: Waiter::start(&run.server.runtime).await,
        status: run.status.clone(),
        stop: run.stop.clone(),
        report: run.report.clone(),
        screen: run.screen.clone(),
        conditions: run.conditions.clone(),
        creates_only: run.creates_only,
        end_began: OnceLock::new(),
    }
}

fn place(is_on_host: bool, addresses: &[String]) -> String {
    match (is_on_host, addresses) {
        (true, _) => "on the host's network".to_owned(),
        (false, []) => "without a network".to_owned(),
        (false, addresses) => format!("at {}", addresses.join(", ")),
    }
}

async fn prepare(
    run: &PodRun,
    found: &Found,
    fields: &PodFields,
) -> anyhow::Result<(BTreeMap<String, String>, Volumes)> {
    let is_running = matches!(found, Found::Ready(_));
    let containers: Vec<_> = run.pod.all_containers().collect();
    let request = pull::Pulls {
        pod: &run.pod,
        containers: &containers,
        objects: &run.objects,
        report: &run.report,
        bars: run.screen.as_ref().and_then(|screen| screen.bars.as_ref()),
    };
    // A running pod needs no images until one of its containers is restarted.
    let images = if is_running { BTreeMap::new() } else { pull::all(&run.server.images, &request).await? };
    let volumes = VolumeRequest {
        pod: run.pod.clone(),
        objects: Arc::clone(&run.objects),
        fields: fields.clone(),
        folder: layout::run_volumes(&run.folder),
        named: run.named_volumes.clone(),
        existing: match (is_running, run.is_supervised) {
            (true, _) => Existing::Use,
            (false, true) => Existing::Keep,
            (false, false) => Existing::Refuse,
        },
    };
    Ok((images, Volumes::prepare_within(VOLUMES, volumes).await?))
}

/// Runs the containers. Stops a pod whose sandbox is gone, or that uses too much disk space.
async fn within_limits(context: &Arc<Context>) -> anyhow::Result<Outcome> {
    let outcome = |code: u8| match context.stop.now().code() {
        Some(LOST) if code != 0 => Outcome::Lost(code),
        _ => Outcome::Ended(code),
    };
    let code = containers_run::run(context);
    tokio::pin!(code);
    let (reason, own) = tokio::select! {
        code = &mut code => return code.map(outcome),
        () = lost(context) => ("the pod sandbox is gone".to_owned(), LOST),
        reason = exceeded(&context.pod.volumes, &context.volumes) => (reason, EVICTED),
    };
    context.report.emit(reason);
    context.stop.stop_with(own);
    code.await.map(outcome)
}

/// Returns when the sandbox is gone but containers still run: the sandbox has lost a part.
async fn lost(context: &Context) {
    if let Ok(pod) = context.server.pods.find(&context.id) {
        pod.unready().await;
    }
    tokio::time::sleep(LOST_CONTAINERS).await;
}
