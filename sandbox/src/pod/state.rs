//! The states of a pod and the changes between them.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::resources::PodResources;

/// ```text
///         run fails, all undone: no pod is left
///         ^
///         |
///   run ──┴─> Starting ──────> Ready <──────────────────> Unknown
///                │              │ │  monitor silent, back   │ │
///                │ run fails,   │ └──────────┬──────────────┘ │
///                │ undo too     │            │ a part died    │ monitor gone
///                v              │            v                │
///              Failed           │        Degraded ─────────── │ ──> Lost
///                │              │            │                └──────^ │
///                │              └─────┬──────┴─────────────────────────┘
///                │ stop               │ stop
///                v                    v
///             Stopped <────────── Stopping      (stays Stopping when the stop fails: stop again)
///                │
///                └──> Removing ──> no pod is left
/// ```
///
/// Containers can only be started in Ready. For CRI clients, Ready is SANDBOX_READY, and so is Unknown: its
/// containers probably run, and kubelet kills the containers of a pod that is not ready. All others are
/// SANDBOX_NOTREADY, which makes kubelet replace the pod.
///
/// The record on disk only has states that a later server cannot find out itself: not Unknown, Stopping and
/// Removing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodState {
    /// Being made. Not listed; a server that finds such a record undoes the start.
    Starting,
    /// Namespaces, network and monitor are up.
    Ready,
    /// The monitor does not answer, but has not ended. The server keeps trying to reach it.
    Unknown { why: String },
    /// A part of the pod has ended that cannot be made again; the monitor and some containers may live.
    Degraded { why: String },
    /// The monitor has ended unexpectedly, and the containers with it. The network and the record are kept
    /// until stop and remove.
    Lost,
    /// Making it failed, and so did the undo. It was never ready.
    Failed { why: String },
    /// Being stopped, or the last stop failed.
    Stopping,
    /// Nothing of it runs, its network and cgroups are released.
    Stopped,
    /// Being removed, or the last removal failed.
    Removing,
}

/// A change that is not in the drawing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a pod that {now} cannot {wanted}")]
pub struct Refusal {
    /// `is being stopped`, `has been stopped`...
    pub now: &'static str,
    pub wanted: &'static str,
}

/// The status of the pod at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodStatus {
    pub state: PodState,
    /// The primary one first; kept after a stop, for clients that ask for it.
    pub ips: Vec<IpAddr>,
    /// None when no monitor runs, or its process id is unknown.
    pub monitor_pid: Option<i32>,
    #[serde(default)]
    pub resources: PodResources,
}

impl PodStatus {
    /// The status of a pod that will be made.
    #[must_use]
    pub fn starting() -> Self {
        Self::new(PodState::Starting, None)
    }

    pub(crate) fn new(state: PodState, monitor_pid: Option<i32>) -> Self {
        Self { state, ips: vec![], monitor_pid, resources: PodResources::default() }
    }

    /// The whole pod is up.
    ///
    /// # Errors
    /// From all states but Starting.
    pub fn ready(&self, monitor_pid: i32, ips: &[IpAddr]) -> Result<Self, Refusal> {
        match self.state {
            PodState::Starting => {
                let (ips, monitor_pid) = (ips.to_vec(), Some(monitor_pid));
                Ok(Self { ips, monitor_pid, ..self.with(PodState::Ready) })
            }
            _ => Err(self.state.refuse("become ready")),
        }
    }

    /// The monitor answers again.
    ///
    /// # Errors
    /// From states in which that has no meaning.
    pub fn answering(&self) -> Result<Self, Refusal> {
        match self.state {
            PodState::Ready | PodState::Unknown { .. } => Ok(self.with(PodState::Ready)),
            _ => Err(self.state.refuse("become ready again")),
        }
    }

    /// The monitor does not answer.
    ///
    /// # Errors
    /// From states in which the monitor need not answer.
    pub fn silent(&self, why: String) -> Result<Self, Refusal> {
        match self.state {
            PodState::Ready | PodState::Unknown { .. } => Ok(self.with(PodState::Unknown { why })),
            _ => Err(self.state.refuse("become unknown")),
        }
    }

    /// A part of the pod has ended. The first reason is kept.
    ///
    /// # Errors
    /// From states in which nothing is expected to run.
    pub fn degraded(&self, why: String) -> Result<Self, Refusal> {
        match self.state {
            PodState::Ready | PodState::Unknown { .. } => Ok(self.with(PodState::Degraded { why })),
            PodState::Degraded { .. } => Ok(self.clone()),
            _ => Err(self.state.refuse("lose a part")),
        }
    }

    /// The monitor has ended.
    ///
    /// # Errors
    /// From states in which no monitor is expected.
    pub fn lost(&self) -> Result<Self, Refusal> {
        match self.state {
            PodState::Ready | PodState::Unknown { .. } | PodState::Degraded { .. } => {
                Ok(Self { monitor_pid: None, ..self.with(PodState::Lost) })
            }
            _ => Err(self.state.refuse("lose its monitor")),
        }
    }

    /// Making the pod failed, perhaps just when it became ready, and something of it is left.
    ///
    /// # Errors
    /// From all states but Starting and Ready.
    pub fn failed(&self, why: String) -> Result<Self, Refusal> {
        match self.state {
            PodState::Starting | PodState::Ready => Ok(self.with(PodState::Failed { why })),
            _ => Err(self.state.refuse("fail to start")),
        }
    }

    /// A stop begins. A failed pod stays Failed until nothing of it is left, so that an equal request can
    /// clean it up and make it again.
    ///
    /// # Errors
    /// From Starting, Stopped and Removing.
    pub fn stopping(&self) -> Result<Self, Refusal> {
        match self.state {
            PodState::Ready
            | PodState::Unknown { .. }
            | PodState::Degraded { .. }
            | PodState::Lost
            | PodState::Stopping => Ok(self.with(PodState::Stopping)),
            PodState::Failed { .. } => Ok(self.clone()),
            PodState::Starting | PodState::Stopped | PodState::Removing => {
                Err(self.state.refuse("be stopped"))
            }
        }
    }

    /// All resources of the pod are released.
    ///
    /// # Errors
    /// From all states but Stopping and Failed.
    pub fn stopped(&self) -> Result<Self, Refusal> {
        match self.state {
            PodState::Stopping | PodState::Failed { .. } => {
                Ok(Self { monitor_pid: None, ..self.with(PodState::Stopped) })
            }
            _ => Err(self.state.refuse("have been stopped")),
        }
    }

    /// Its removal begins.
    ///
    /// # Errors
    /// From all states but Stopped and Removing.
    pub fn removing(&self) -> Result<Self, Refusal> {
        match self.state {
            PodState::Stopped | PodState::Removing => Ok(self.with(PodState::Removing)),
            _ => Err(self.state.refuse("be removed")),
        }
    }

    /// The pod whose network it has joined has lost its addresses.
    ///
    /// # Errors
    /// Never.
    pub(crate) fn without_addresses(&self) -> Result<Self, Refusal> {
        Ok(Self { ips: vec![], ..self.clone() })
    }

    /// Its client announces new resources.
    ///
    /// # Errors
    /// From states in which nothing of the pod can run.
    pub fn with_resources(&self, resources: PodResources) -> Result<Self, Refusal> {
        if self.state.may_run() {
            Ok(Self { resources, ..self.clone() })
        } else {
            Err(self.state.refuse("have its resources changed"))
        }
    }

    fn with(&self, state: PodState) -> Self {
        Self { state, ..self.clone() }
    }
}

impl PodState {
    /// For metrics and messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Unknown { .. } => "unknown",
            Self::Degraded { .. } => "degraded",
            Self::Lost => "lost",
            Self::Failed { .. } => "failed",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Removing => "removing",
        }
    }

    /// Every [`name`](Self::name).
    pub const NAMES: [&str; 9] =
        ["starting", "ready", "unknown", "degraded", "lost", "failed", "stopping", "stopped", "removing"];

    /// Whether the monitor and the containers run or may run.
    #[must_use]
    pub fn may_run(&self) -> bool {
        matches!(self, Self::Ready | Self::Unknown { .. } | Self::Degraded { .. })
    }

    /// Whether only the record of the pod is left.
    #[must_use]
    pub fn is_torn_down(&self) -> bool {
        matches!(self, Self::Stopped | Self::Removing)
    }

    fn refuse(&self, wanted: &'static str) -> Refusal {
        let now = match self {
            Self::Starting => "is being made",
            Self::Ready => "is ready",
            Self::Unknown { .. } => "does not answer",
            Self::Degraded { .. } => "has lost a part",
            Self::Lost => "has lost its monitor",
            Self::Failed { .. } => "could not be made",
            Self::Stopping => "is being stopped",
            Self::Stopped => "has been stopped",
            Self::Removing => "is being removed",
        };
        Refusal { now, wanted }
    }
}

/// Continues "the pod ...": `is being made`.
impl fmt::Display for PodState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.refuse("").now)?;
        match self {
            Self::Unknown { why } | Self::Degraded { why } | Self::Failed { why } => write!(f, " ({why})"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> PodStatus {
        PodStatus::starting().ready(7, &["10.88.0.2".parse().unwrap()]).unwrap()
    }

    #[test]
    fn a_pod_is_made_stopped_and_removed() {
        let stopped = ready().stopping().unwrap().stopped().unwrap();
        assert_eq!((stopped.monitor_pid, stopped.ips.len()), (None, 1));
        assert_eq!(stopped.removing().unwrap().state, PodState::Removing);
        assert!(ready().removing().is_err(), "only what is stopped is removed");
        assert!(ready().stopped().is_err(), "a stop begins before it ends");
    }

    #[test]
    fn a_silent_monitor_may_come_back_or_turn_out_to_be_gone() {
        let unknown = ready().silent("no answer".into()).unwrap();
        assert_eq!(unknown.monitor_pid, Some(7));
        assert_eq!(unknown.answering().unwrap(), ready());
        assert_eq!(unknown.lost().unwrap().monitor_pid, None);
    }

    #[test]
    fn resources_change_while_something_may_run() {
        let overhead = Some(Default::default());
        let resources = PodResources { overhead, containers: None };
        assert_eq!(ready().with_resources(resources.clone()).unwrap().resources, resources);
        let refusal = ready().stopping().unwrap().with_resources(resources).unwrap_err();
        assert_eq!(refusal.to_string(), "a pod that is being stopped cannot have its resources changed");
    }

    #[test]
    fn a_degraded_pod_does_not_become_ready_again_and_keeps_the_first_reason() {
        let degraded = ready().degraded("PID 1 ended".into()).unwrap();
        assert!(degraded.answering().is_err());
        assert!(degraded.silent(String::new()).is_err());
        assert_eq!(degraded.degraded("later".into()).unwrap(), degraded);
        assert_eq!(degraded.lost().unwrap().state, PodState::Lost);
    }

    #[test]
    fn a_monitor_that_ends_in_a_stop_loses_nothing() {
        for status in [ready().stopping().unwrap(), ready().stopping().unwrap().stopped().unwrap()] {
            assert!(status.lost().is_err());
            assert!(status.silent(String::new()).is_err());
            assert!(status.degraded(String::new()).is_err());
        }
    }

    #[test]
    fn a_pod_that_was_never_made_stays_failed_until_it_is_stopped() {
        let failed = PodStatus::starting().failed("stage network".into()).unwrap();
        assert_eq!(failed.stopping().unwrap(), failed);
        assert_eq!(failed.stopped().unwrap().state, PodState::Stopped);
        assert!(failed.answering().is_err());
    }

    #[test]
    fn states_survive_the_disk_and_old_records_are_understood() {
        let why = || "x".to_owned();
        for state in [
            PodState::Starting,
            PodState::Ready,
            PodState::Unknown { why: why() },
            PodState::Degraded { why: why() },
            PodState::Lost,
            PodState::Failed { why: why() },
            PodState::Stopping,
            PodState::Stopped,
            PodState::Removing,
        ] {
            let text = serde_json::to_string(&state).unwrap();
            assert_eq!(serde_json::from_str::<PodState>(&text).unwrap(), state, "{text}");
            assert!(PodState::NAMES.contains(&state.name()));
        }
        assert_eq!(serde_json::from_str::<PodState>("\"ready\"").unwrap(), PodState::Ready);
    }
}
