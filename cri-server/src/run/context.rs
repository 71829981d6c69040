//! What the containers of one pod share while it runs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crisp_operation::StatusCell;
use crisp_proto::runtime::v1::PodSandboxConfig;
use tokio::sync::watch;

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
    /// Those that were pulled for this attempt: ids by the names in the manifest.
    pub images: BTreeMap<String, String>,
    pub volumes: Volumes,
    /// For what belongs to this pod alone.
    pub folder: PathBuf,
    pub hosts: Option<PathBuf>,
    pub waiter: Waiter,
    pub status: StatusCell<RunStatus>,
    pub stop: StopRequests,
    pub report: Report,
    pub screen: Option<Screen>,
    pub conditions: Conditions,
    /// When the end of the pod began: sidecars have what is left of the grace period.
    pub end_began: OnceLock<Instant>,
}

/// One pod's part of the screen.
#[derive(Clone)]
pub struct Screen {
    /// Before the names of containers, where there are several pods.
    pub prefix: String,
    /// Of the longest name.
    pub width: usize,
    /// Number of the pod's first container on this screen: containers differ by colour.
    pub first: usize,
    /// Pulls, of all pods together.
    pub bars: Option<Arc<Mutex<Bars>>>,
    /// Of the one container of a `crisp run IMAGE`, which has the screen for itself.
    pub streams: Option<Arc<Streams>>,
}

impl Context {
    /// Whether a container that ended with `code` is started again.
    pub fn restarts(&self, policy: RestartPolicy, code: i32, is_unhealthy: bool) -> bool {
        let again = restart::again(policy, code) || (is_unhealthy && policy != RestartPolicy::Never);
        let limit = self.pod.backoff_limit.filter(|_| code != 0);
        again && limit.is_none_or(|limit| self.status.get().failures < limit)
    }

    /// Counts a failure of which nothing is left from now on, for a Job.
    pub async fn count_failure(&self) {
        if self.pod.backoff_limit.is_some()
            && let Err(error) = change(&self.status, |status| status.failures += 1).await
        {
            self.report.say(format_args!("a failure is not counted: {error:#}"));
        }
    }

    /// Where the screen is the container's.
    pub fn streams(&self) -> Option<&Streams> {
        self.screen.as_ref()?.streams.as_deref()
    }

    /// Seconds that a container has to end in, when the end of the pod has begun.
    pub fn grace_left(&self, grace: u32) -> u32 {
        let passed = self.end_began.get().map_or(Duration::ZERO, Instant::elapsed);
        let left = Duration::from_secs(grace.into()).saturating_sub(passed);
        // As a kubelet: never so little that a signal cannot be heard.
        u32::try_from(left.as_secs()).unwrap_or(grace).max(grace.min(2))
    }
}

/// How a container is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Condition {
    /// Its startupProbe and its postStart hook have succeeded.
    pub is_started: bool,
    /// Its readinessProbe has succeeded.
    pub is_ready: bool,
    pub restarts: u32,
}

/// How each container is, by name. Clones are the same.
#[derive(Debug, Clone)]
pub struct Conditions(watch::Sender<BTreeMap<String, Condition>>);

impl Conditions {
    /// None is known yet.
    pub fn new() -> Self {
        Self(watch::Sender::default())
    }

    /// Changes that of one container.
    pub fn change(&self, name: &str, change: impl FnOnce(&mut Condition)) {
        self.0.send_modify(|all| change(all.entry(name.to_owned()).or_default()));
    }

    /// All of them, now.
    pub fn all(&self) -> BTreeMap<String, Condition> {
        self.0.borrow().clone()
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
        // The sender is in `self`.
        let _ = changes.wait_for(|all| all.get(name).is_some_and(|condition| condition.is_started)).await;
    }
}
