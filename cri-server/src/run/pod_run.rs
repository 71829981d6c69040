//! One attempt to run a pod: images, volumes, the sandbox, its containers. The same for a pod in the foreground
//! and for one that a server supervises; what becomes of the pod then is theirs.
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
use super::{containers_run, pull};
use crate::rpc_error::refused;
use crate::server::{Server, layout};

/// For all volumes of a pod: one on a dead file system must not hang the run.
const VOLUMES: Duration = Duration::from_secs(30);
/// The containers of a sandbox that is gone end by themselves, or within so long not at all.
const LOST_CONTAINERS: Duration = Duration::from_secs(2);

/// A pod to run, and how.
#[derive(Clone)]
pub struct PodRun {
    pub server: Arc<Server>,
    pub pod: Pod,
    /// What it uses.
    pub objects: Arc<Objects>,
    pub uid: String,
    /// For what belongs to this pod alone.
    pub folder: PathBuf,
    /// For named volumes.
    pub named_volumes: PathBuf,
    pub status: StatusCell<RunStatus>,
    pub stop: StopRequests,
    pub report: Report,
    /// Where its output is shown.
    pub screen: Option<Screen>,
    pub conditions: Conditions,
    /// A server runs it: it goes on with what is there already.
    pub is_supervised: bool,
}

/// How an attempt has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The containers have ended, or were stopped. The sandbox is there, if it was started.
    Ended(u8),
    /// The sandbox is gone, and containers with it that have to run.
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
    /// What is there of the pod.
    pub fn find(&self) -> Found {
        pod_start::find(&self.server, &self.uid, &self.folder)
    }
}

/// Runs the pod until its containers have ended.
///
/// # Errors
/// Anything but a container that fails. What was started stays: the next attempt finds it.
pub async fn once(run: &PodRun) -> anyhow::Result<Outcome> {
    let Some(limit) = run.pod.active_deadline else { return attempt(run).await };
    // Pulls and volumes count, and so do earlier servers and attempts.
    let now = clock::now();
    change(&run.status, move |status| status.begun_at = status.begun_at.or(Some(now))).await?;
    let passed = now.saturating_sub(run.status.get().begun_at.unwrap_or(now)).max(0).unsigned_abs();
    let deadline = async {
        tokio::time::sleep(limit.saturating_sub(Duration::from_nanos(passed))).await;
        let seconds = limit.as_secs();
        run.report.say(format_args!("the pod has run for {seconds} s, its activeDeadlineSeconds"));
        run.stop.stop_with(DEADLINE);
        std::future::pending().await
    };
    tokio::select! {
        outcome = attempt(run) => outcome,
        outcome = deadline => outcome,
    }
}

async fn attempt(run: &PodRun) -> anyhow::Result<Outcome> {
    let found = if run.is_supervised { run.find() } else { Found::Nothing };
    if matches!(found, Found::Silent(_)) && !run.stop.now().is_any() {
        // Nothing of it is touched: its containers use it.
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
    run.report.routine(format_args!("pod {} runs {}", run.pod.name, place(&addresses)));
    let hosts = pod_start::write_hosts(&run.server, &run.pod, &sandbox.id, &run.folder, is_running)?;
    let mut context = context(run, sandbox, images, volumes).await;
    context.hosts = hosts;
    within_limits(&Arc::new(context)).await
}

/// Stops the containers of the pod that is there, as it would be stopped while it runs: hooks, grace period, sidecars
/// last. None is started.
///
/// # Errors
/// A container that cannot be stopped.
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
    Context {
        server: Arc::clone(&run.server),
        pod: run.pod.clone(),
        objects: Arc::clone(&run.objects),
        uid: run.uid.clone(),
        fields: PodFields::of(&run.pod, &run.uid).with_addresses(sandbox.addresses),
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
        end_began: OnceLock::new(),
    }
}

fn place(addresses: &[String]) -> String {
    if addresses.is_empty() {
        "on the host's network".to_owned()
    } else {
        format!("at {}", addresses.join(", "))
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
    // A pod that runs needs none, until one of its containers is started again.
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

/// Runs the containers. A pod whose sandbox is gone, or that takes too much of the disk, is stopped.
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
    context.report.say(reason);
    context.stop.stop_with(own);
    code.await.map(outcome)
}

/// Returns when the sandbox is gone and containers run on: in one that has lost a part.
async fn lost(context: &Context) {
    if let Ok(pod) = context.server.pods.find(&context.id) {
        pod.unready().await;
    }
    tokio::time::sleep(LOST_CONTAINERS).await;
}
