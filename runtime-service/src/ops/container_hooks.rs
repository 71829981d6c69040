//! Hooks of a container, which its CDI devices bring: see [`crisp_executor::hook`] for their moments.
//!
//! ```text
//!   start:  prepare ─> plan ─> monitor ─> process waits in its pause ─┐
//!             └───────── run_in_pause <── Pause ──────────────────────┘ prestart, createRuntime, createContainer
//!           the process itself runs startContainer, the server poststart after the response of the monitor
//!   exit, failed start, removal: poststop, once per start
//! ```
//!
//! Hooks before the end of the container run in its cgroup, so that nothing of them is left after it: its limit of memory
//! and its rules for devices are theirs too. Without that cgroup they do not run. Those after the end run in the cgroup
//! of the server. If this server ends, its hook is killed, and the process that waits for it ends: the container can be
//! started again.
//!
//! A file says from the start on that poststop hooks are due. It is removed when they have run, so that they run once
//! more if the server ends meanwhile. A start does not replace it: it runs first what is due.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crisp_executor::cgroup::JoinFds;
use crisp_executor::compile::{CompileError, HookInputs, needs_pause};
use crisp_executor::hook::{self, Kind, Pause, Runner, State};
use crisp_executor::source;
use crisp_metrics::trace;
use crisp_operation::{Interrupted, Stage};
use crisp_sandbox::Pod;
use oci_spec::runtime::{Hooks, Spec};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::sync::OwnedMutexGuard;

use super::container_cgroup;
use crate::cause::Cause;
use crate::cdi::Edits;
use crate::container::Container;
use crate::service_state::ServiceState;
use crate::spec;

/// Time limit for opening the host's root.
const HOST: Duration = Duration::from_secs(20);
/// Time limit of the monitor's part of a start with hooks, in addition to theirs.
const MARGIN: Duration = Duration::from_secs(5);

/// The hooks of a start.
pub(super) struct StartHooks {
    hooks: Hooks,
    state: State,
    /// The end of this server, if there are hooks in the pause.
    pause: Option<Pause>,
    /// For the plan.
    host: Option<OwnedFd>,
    socket: Option<OwnedFd>,
}

/// Refuses hooks that the container's pod cannot have: the root of a user namespace cannot enter the bundle, and what
/// the host's root makes belongs to no user in there.
///
/// # Errors
/// [`Cause::HookInUserNamespace`].
pub(super) fn check(edits: &Edits, pod: &Pod) -> Result<(), Cause> {
    let kind = edits.hooks.iter().map(|hook| hook.kind).find(|kind| Kind::IN_PAUSE.contains(kind));
    match kind.filter(|_| pod.config.user.is_some()) {
        Some(kind) => Err(Cause::HookInUserNamespace { kind }),
        None => Ok(()),
    }
}

/// Prepares the hooks of a start. Blocks. The bundle must exist, and [`run_due`] must have been called.
///
/// # Errors
/// The file systems of the host cannot be opened.
pub(super) fn prepare(container: &Container, spec: &Spec, hooks: &Hooks) -> Result<StartHooks, Cause> {
    let hooks = hooks.clone();
    let state = state_of(container, spec);
    let mut prepared = StartHooks { hooks, state, pause: None, host: None, socket: None };
    if needs_pause(&prepared.hooks) {
        let whole = source::Options { recursive: true, ..source::Options::default() };
        let host = source::open(Path::new("/"), whole, HOST);
        let host = host.map_err(|source| CompileError::Source { field: "hooks".to_owned(), source })?;
        let (pause, socket) = Pause::pair().map_err(Cause::system("make a socket for hooks"))?;
        (prepared.pause, prepared.host, prepared.socket) = (Some(pause), Some(host.mount), Some(socket));
    }
    let due = container.folder.poststop_due();
    if !Kind::Poststop.of(&prepared.hooks).is_empty() {
        fs::write(&due, "").map_err(Cause::file(due))?;
    }
    Ok(prepared)
}

fn state_of(container: &Container, spec: &Spec) -> State {
    let annotations = spec.annotations().clone().unwrap_or_default();
    State {
        oci_version: spec.version().clone(),
        id: container.id().as_str().to_owned(),
        bundle: container.folder.bundle(),
        annotations: annotations.into_iter().collect::<BTreeMap<_, _>>(),
    }
}

impl StartHooks {
    pub(super) fn inputs(&mut self) -> HookInputs<'_> {
        HookInputs { state: &self.state, host: self.host.take(), pause: self.socket.take() }
    }

    /// How long the start may take longer.
    pub(super) fn limit(&self) -> Duration {
        hook::limit(&self.hooks, &Kind::IN_PAUSE) + hook::limit(&self.hooks, &[Kind::StartContainer]) + MARGIN
    }
}

/// Runs the hooks of the pause, while the start is under way. Succeeds too if the start fails before its pause. A
/// failure, or the end of this call, ends the process that waits.
///
/// # Errors
/// The first hook that fails.
pub(super) async fn run_in_pause(
    stage: &Stage<Cause>,
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    hooks: StartHooks,
) -> Result<(), Cause> {
    let StartHooks { hooks, state, pause: Some(pause), .. } = hooks else { return Ok(()) };
    let (service, container) = (service.clone(), container.clone());
    let (cancel, under_way) =
        pipe_with(PipeFlags::CLOEXEC).map_err(Cause::system("make a pipe for hooks"))?;
    let run = move |_: &_| {
        let failed = Cause::system("wait for the pause of hooks");
        let Some(paused) = pause.wait(cancel.as_fd()).map_err(failed)? else { return Ok(()) };
        // It is missing if a stop has removed it.
        let cgroup = cgroup_of(&service, &container)?.ok_or(Cause::Stopped)?;
        let state = state.value("creating", paused.pid).to_string();
        let runner = Runner { state: &state, cgroup: Some(&cgroup), cancel: Some(cancel.as_fd()) };
        runner.run_in_pause(&hooks, hook::Container { process: paused.process.as_fd(), user: false })?;
        // If it has ended meanwhile, the monitor reports why.
        let _ = pause.proceed();
        Ok(())
    };
    let result = stage.blocking(run).await;
    drop(under_way);
    result
}

fn cgroup_of(service: &ServiceState, container: &Container) -> Result<Option<JoinFds>, Cause> {
    Ok(container_cgroup::open(service, container)?.map(|cgroup| cgroup.join()).transpose()?)
}

/// Runs the poststart hooks of a container that has just been started, unless it has ended. Failures are logged.
pub(super) async fn run_poststart(service: &Arc<ServiceState>, container: &Arc<Container>, pid: i32) {
    if !has(container, Kind::Poststart) {
        return;
    }
    let (service, container) = (service.clone(), container.clone());
    let run = move || match cgroup_to_join(&service, &container, pid) {
        Ok(cgroup) => run_and_log(&container, Kind::Poststart, ("running", pid), Some(&cgroup)),
        Err(why) => tracing::info!(container = %container.id(), why, "poststart hooks are not run"),
    };
    let _ = tokio::task::spawn_blocking(trace_of(run)).await;
}

/// The cgroup of a container that runs. If the container ends after this, no process can be started in it.
fn cgroup_to_join(service: &ServiceState, container: &Container, pid: i32) -> Result<JoinFds, String> {
    let cgroup = cgroup_of(service, container).map_err(|error| error.to_string())?;
    // Compared after that: the cgroup may be that of a later life.
    match cgroup.filter(|_| container.status().state.pid() == Some(pid)) {
        Some(cgroup) => Ok(cgroup),
        None => Err("the container has ended".to_owned()),
    }
}

fn trace_of<T>(run: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let span = trace::current();
    move || trace::run_within(span, run)
}

/// Runs the poststop hooks of an ended container, once per start; once more if this server ends before they have ended.
/// Failures are logged. Blocks. The caller has [`Container::cleaning`]: one that comes later returns when the hooks have
/// run.
///
/// # Errors
/// The disk does not note that they have run: they will run again.
pub(crate) fn run_poststop(container: &Container) -> Result<(), Cause> {
    if !has(container, Kind::Poststop) {
        return Ok(());
    }
    let due = container.folder.poststop_due();
    if due.try_exists().map_err(Cause::file(&due))? {
        run_and_log(container, Kind::Poststop, ("stopped", 0), None);
        fs::remove_file(&due).map_err(Cause::file(&due))?;
    }
    Ok(())
}

/// Runs the poststop hooks of the life before, if they are due. Blocks.
///
/// # Errors
/// As [`run_poststop`].
pub(super) fn run_due(container: &Container) -> Result<(), Cause> {
    if !has(container, Kind::Poststop) {
        return Ok(());
    }
    let _cleaning = container.cleaning.clone().blocking_lock_owned();
    run_poststop(container)
}

/// [`run_poststop_alone`], for a caller that does not wait. `cleaning`: [`Container::cleaning`], if the caller has it.
pub(crate) fn run_poststop_in_background(container: &Arc<Container>, cleaning: Option<OwnedMutexGuard<()>>) {
    if !has(container, Kind::Poststop) {
        return;
    }
    let container = container.clone();
    tokio::spawn(async move {
        let result = match cleaning {
            Some(cleaning) => run_poststop_with(&container, cleaning).await,
            None => run_poststop_alone(&container).await,
        };
        if let Err(error) = result {
            tracing::warn!(container = %container.id(), %error, "its poststop hooks will run again");
        }
    });
}

/// [`run_poststop`], once the clean-up after an exit, which may be running them, has ended.
pub(super) async fn run_poststop_alone(container: &Arc<Container>) -> Result<(), Cause> {
    if !has(container, Kind::Poststop) {
        return Ok(());
    }
    let cleaning = container.cleaning.clone().lock_owned().await;
    run_poststop_with(container, cleaning).await
}

async fn run_poststop_with(container: &Arc<Container>, cleaning: OwnedMutexGuard<()>) -> Result<(), Cause> {
    let container = container.clone();
    let run = move || {
        let _cleaning = cleaning;
        // A start has run what was due before it, and waits for this lock before it does that.
        if container.status().state.is_idle() { run_poststop(&container) } else { Ok(()) }
    };
    tokio::task::spawn_blocking(trace_of(run)).await.unwrap_or(Err(Interrupted::ShuttingDown.into()))
}

/// How long [`run_poststop`] may take; None if the container has no such hooks.
pub(crate) fn poststop_limit(container: &Container) -> Option<Duration> {
    let hooks = spec::cdi_hooks(&container.metadata.cdi.hooks)?;
    has(container, Kind::Poststop).then(|| hook::limit(&hooks, &[Kind::Poststop]))
}

fn has(container: &Container, kind: Kind) -> bool {
    container.metadata.cdi.hooks.iter().any(|hook| hook.kind == kind)
}

/// By the spec, failures of these hooks change nothing.
fn run_and_log(container: &Container, kind: Kind, (status, pid): (&str, i32), cgroup: Option<&JoinFds>) {
    let path = container.folder.spec();
    let read = fs::read(&path).map_err(Cause::file(&path));
    let spec = read.and_then(|bytes| {
        serde_json::from_slice::<Spec>(&bytes).map_err(|error| Cause::file(&path)(error.into()))
    });
    let spec = match spec {
        Ok(spec) => spec,
        Err(error) => {
            tracing::warn!(container = %container.id(), %kind, %error, "hooks are not run");
            return;
        }
    };
    let Some(hooks) = spec.hooks() else { return };
    let state = state_of(container, &spec).value(status, pid).to_string();
    for error in (Runner { state: &state, cgroup, cancel: None }).run_all(kind, hooks) {
        tracing::warn!(container = %container.id(), %error, "a hook failed");
    }
}
