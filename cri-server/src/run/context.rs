//! The shared state of the containers of one running pod.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crisp_operation::StatusCell;
use crisp_proto::runtime::v1::PodSandboxConfig;
use tokio::sync::watch;

use super::health_status::Health;
use super::manifest::{Objects, Pod, RestartPolicy};
use super::pod_fields::PodFields;
use super::report::Report;
use super::restart;
use super::run_status::{RunStatus, change};
use super::stop_request::StopRequests;
use super::streams::Streams;
use super::volumes::Volumes;
use super::wait::Waiter;
use crate::progress::Bars;
use crate::server::Server;

/// One running pod.
pub struct Context {
    pub server: Arc<Server>,
    pub pod: Pod,
    pub objects: Arc<Objects>,
    pub uid: String,
    pub id: String,
    pub sandbox: PodSandboxConfig,
    pub fields: PodFields,
    /// The images that were pulled for this attempt: ids by the names in the manifest.
    pub images: BTreeMap<String, String>,
    pub volumes: Volumes,
    /// A folder that belongs to this pod only.
    pub folder: PathBuf,
    pub hosts: Option<PathBuf>,
    pub waiter: Waiter,
    pub status: StatusCell<RunStatus>,
    pub stop: StopRequests,
    pub report: Report,
    pub screen: Option<Screen>,
    pub conditions: Conditions,
    /// The containers are created and not started.
    pub creates_only: bool,
    /// The time at which the end of the pod began: sidecars get the rest of the grace period.
    pub end_began: OnceLock<Instant>,
}

/// One pod's part of the screen.
#[derive(Clone)]
pub struct Screen {
    /// Printed before the names of containers when there are several pods.
    pub prefix: String,
    /// Width of the longest name.
    pub width: usize,
    /// Number of the pod's first container on this screen; it selects colours.
    pub first: usize,
    /// Progress of the pulls of all pods.
    pub bars: Option<Arc<Mutex<Bars>>>,
    /// The streams of the only container of a `crisp run IMAGE`, which has the whole screen.
    pub streams: Option<Arc<Streams>>,
}

impl Context {
    /// Whether a container that ended with `code` is restarted.
    pub fn restarts(&self, policy: RestartPolicy, code: i32, is_unhealthy: bool) -> bool {
        let again = restart::again(policy, code) || (is_unhealthy && policy != RestartPolicy::Never);
        let limit = self.pod.backoff_limit.filter(|_| code != 0);
        again && limit.is_none_or(|limit| self.status.get().failures < limit)
    }

    /// Counts a failure for a Job whose container will be removed.
    pub async fn count_failure(&self) {
        if self.pod.backoff_limit.is_some()
            && let Err(error) = change(&self.status, |status| status.failures += 1).await
        {
            self.report.emit(format_args!("a failure is not counted: {error:#}"));
        }
    }

    /// The streams, if the container has the whole screen.
    pub fn streams(&self) -> Option<&Streams> {
        self.screen.as_ref()?.streams.as_deref()
    }

    /// The grace period in seconds: the stop request's, else the pod's.
    pub fn grace(&self) -> u32 {
        self.stop.grace().unwrap_or(self.pod.grace)
    }

    /// Seconds left for a container after the end of the pod has begun.
    pub fn grace_left(&self, grace: u32) -> u32 {
        let passed = self.end_began.get().map_or(Duration::ZERO, Instant::elapsed);
        let left = Duration::from_secs(grace.into()).saturating_sub(passed);
        // As with kubelet: enough time for the container to receive a signal.
        u32::try_from(left.as_secs()).unwrap_or(grace).max(grace.min(2))
    }
}

/// The condition of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// Its startupProbe and its postStart hook have succeeded.
    pub is_started: bool,
    /// Its readinessProbe has succeeded.
    pub is_ready: bool,
    /// It has ended, and waits for its next start.
    pub is_delayed: bool,
    /// Of a container with a readinessProbe.
    pub health: Option<Health>,
    pub restarts: u32,
}

/// The condition of each container by name. Clones share it.
#[derive(Debug, Clone)]
pub struct Conditions(watch::Sender<BTreeMap<String, Condition>>);

impl Conditions {
    /// No condition is known yet.
    pub fn new() -> Self {
        Self(watch::Sender::default())
    }

    /// Changes the condition of one container.
    pub fn change(&self, name: &str, change: impl FnOnce(&mut Condition)) {
        self.0.send_modify(|all| change(all.entry(name.to_owned()).or_default()));
    }

    /// The present conditions.
    pub fn all(&self) -> BTreeMap<String, Condition> {
        self.0.borrow().clone()
    }

    /// Ends the delays before the next starts. Returns false when no container waits for one.
    pub fn end_delays(&self) -> bool {
        self.0.send_if_modified(|all| {
            let mut is_any = false;
            for condition in all.values_mut().filter(|condition| condition.is_delayed) {
                *condition = Condition { restarts: condition.restarts, ..Condition::default() };
                is_any = true;
            }
            is_any
        })
    }

    /// Waits until the delay of a container has been ended.
    pub async fn delay_ended(&self, name: &str) {
        let mut changes = self.0.subscribe();
        let _ = changes.wait_for(|all| all.get(name).is_none_or(|condition| !condition.is_delayed)).await;
    }

    /// Waits until a container has ended and waits for its next start.
    pub async fn any_delayed(&self) {
        let mut changes = self.0.subscribe();
        let _ = changes.wait_for(|all| all.values().any(|condition| condition.is_delayed)).await;
    }

    /// Waits until all of these containers have started.
    pub async fn all_started(&self, names: &[String]) {
        for name in names {
            self.started(name).await;
        }
    }

    /// Waits until a container has started.
    pub async fn started(&self, name: &str) {
        let mut changes = self.0.subscribe();
        // Cannot fail: the sender is in `self`.
        let _ = changes.wait_for(|all| all.get(name).is_some_and(|condition| condition.is_started)).await;
    }
}
