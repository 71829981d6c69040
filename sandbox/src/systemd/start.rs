//! Starts a scope: handles its time limits, the choice of sockets, and missing responses.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use super::bus::{Bus, CallTimeout, START};
use super::error::SystemdError;
use super::holder::ScopeHolder;
use super::{STARTS, Scope, Socket, Systemd};

/// The first pause between two rounds over the sockets; it doubles each time. systemd has no socket for a
/// moment when it re-executes itself.
const PAUSE: Duration = Duration::from_millis(200);
/// Limit for rounds in which no request could be sent.
const UNSENT_MAX: usize = 3;
/// Interval for checking a scope that another request of this server has made or is making.
const LOOK: Duration = Duration::from_millis(20);

/// Errors of a bus whose systemd is temporarily missing, or ended before it responded.
const PASSING: [&str; 7] = [
    "org.freedesktop.DBus.Error.Disconnected",
    "org.freedesktop.DBus.Error.LimitsExceeded",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
    "org.freedesktop.DBus.Error.NoReply",
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.TimedOut",
    "org.freedesktop.DBus.Error.Timeout",
];
const EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

/// The permission to start a scope now.
pub(crate) struct StartPermit<'a> {
    systemd: &'a Systemd,
    /// Time limit for the remaining work.
    deadline: Instant,
    _permit: SemaphorePermit<'a>,
}

/// A request that did not make the scope.
enum Failed {
    /// It was not sent.
    Unsent(SystemdError),
    /// It was sent: systemd may have executed it, or may still do so.
    Unanswered(SystemdError),
    Refused(SystemdError),
}

impl Systemd {
    /// Waits until there are few enough others.
    ///
    /// # Errors
    /// [`SystemdError::Crowded`].
    pub(crate) async fn permit(&self, unit: &str) -> Result<StartPermit<'_>, SystemdError> {
        let after = self.deadlines.start;
        let deadline = Instant::now() + after;
        match tokio::time::timeout_at(deadline, self.starts.acquire()).await {
            Ok(Ok(permit)) => Ok(StartPermit { systemd: self, deadline, _permit: permit }),
            // The first case means closed, which never happens.
            Ok(Err(_)) | Err(_) => {
                Err(SystemdError::Crowded { unit: unit.to_owned(), starts: STARTS, after })
            }
        }
    }
}

impl StartPermit<'_> {
    /// Makes `scope` with the holder in it. If this fails, or is dropped before it returns, the scope may
    /// still be made; it ends with the holder.
    ///
    /// # Errors
    /// [`SystemdError`]: systemd refuses, cannot be reached, does not respond in time, or has made the scope
    /// at a wrong path.
    pub(crate) async fn start(self, scope: &Scope, holder: &mut ScopeHolder) -> Result<(), SystemdError> {
        let (mut unsent, mut unanswered) = (BTreeMap::new(), None);
        let (mut rounds, mut pause) = (0, PAUSE);
        while Instant::now() < self.deadline && (unanswered.is_some() || rounds < UNSENT_MAX) {
            for socket in self.systemd.sockets.iter() {
                match self.request(socket, scope, holder).await {
                    Ok(()) => return self.check(scope, holder),
                    Err(Failed::Unsent(error)) => drop(unsent.insert(&socket.path, error.to_string())),
                    Err(Failed::Unanswered(error)) if self.holds(scope, holder) => {
                        tracing::debug!(%error, "the scope was made all the same");
                        return Ok(());
                    }
                    Err(Failed::Unanswered(error)) => unanswered = Some(error),
                    Err(Failed::Refused(error)) => return self.refused(error, scope, holder).await,
                }
                if Instant::now() >= self.deadline {
                    break;
                }
            }
            tokio::time::sleep_until(self.deadline.min(Instant::now() + pause)).await;
            (rounds, pause) = (rounds + 1, pause * 2);
        }
        let unsent: Vec<String> = unsent.into_values().collect();
        Err(unanswered.unwrap_or_else(|| SystemdError::Connect { failures: unsent.join("; ") }))
    }

    async fn request(&self, socket: &Socket, scope: &Scope, holder: &mut ScopeHolder) -> Result<(), Failed> {
        let answer = self.systemd.deadlines.answer;
        let timeout = CallTimeout { socket, unit: &scope.name, answer, deadline: self.deadline };
        let mut bus = Bus::open(timeout).await.map_err(Failed::Unsent)?;
        let earlier = std::mem::replace(&mut holder.is_requested, true);
        let started = bus.start_transient_unit(&scope.name, &scope.properties(holder.pid)).await;
        let started = started.map_err(|error| match &error {
            SystemdError::Error { call: START, name, .. } if !PASSING.contains(&name.as_str()) => {
                Failed::Refused(error)
            }
            SystemdError::Job { .. } => Failed::Refused(error),
            _ => Failed::Unanswered(error),
        });
        if !matches!(started, Err(Failed::Unanswered(_))) {
            holder.is_requested = earlier;
        }
        started
    }

    /// An existing scope was made by an earlier request of this server without a response.
    async fn refused(
        &self,
        error: SystemdError,
        scope: &Scope,
        holder: &ScopeHolder,
    ) -> Result<(), SystemdError> {
        let exists = matches!(&error, SystemdError::Error { name, .. } if name == EXISTS);
        let until = self.deadline.min(Instant::now() + self.systemd.deadlines.answer);
        while exists && holder.is_requested && Instant::now() < until {
            if self.holds(scope, holder) {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(error)
    }

    /// Whether the holder is in the cgroup of the future monitor: systemd chooses the cgroup of a unit.
    fn holds(&self, scope: &Scope, holder: &ScopeHolder) -> bool {
        let cgroup = self.systemd.cgroups.open(&scope.path);
        cgroup.and_then(|cgroup| cgroup.pids()).is_ok_and(|pids| pids.contains(&holder.pid))
    }

    fn check(&self, scope: &Scope, holder: &ScopeHolder) -> Result<(), SystemdError> {
        if self.holds(scope, holder) {
            return Ok(());
        }
        let (unit, expected) = (scope.name.clone(), scope.path.clone());
        if holder.has_ended() {
            return Err(SystemdError::HolderEnded { unit, pid: holder.pid });
        }
        let found = super::cgroup_of(holder.pid);
        Err(SystemdError::Elsewhere { unit, expected, found })
    }
}
