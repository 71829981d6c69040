//! Probes: check whether a container has started, is alive, and is ready.
//!
//! ```text
//!  postStart --> startupProbe --> started --+--> livenessProbe:  fails --> the container is stopped
//!      fails -->      fails --> stopped     '--> readinessProbe: ready, not ready, ready, ...
//! ```

mod probe_counter;

use std::time::Duration;

use crisp_operation::clock;
use tokio::time::{Instant, MissedTickBehavior};

use super::action::{Purpose, act};
use super::context::Context;
use super::health_status::{Check, Health};
use super::manifest::{Container, Probe, ProbeKind};
use probe_counter::ProbeCounter;

/// The reason why a container must be stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unhealthy {
    pub reason: String,
    /// Grace period in seconds.
    pub grace: u32,
}

/// Follows a running container until it must be stopped. `is_new` is false for a container that an earlier
/// server started: its hook has run.
pub async fn follow(context: &Context, container: &Container, id: &str, is_new: bool) -> Unhealthy {
    let begun = Instant::now();
    let grace = context.pod.grace;
    if let Some(hook) = container.lifecycle.post_start.as_ref().filter(|_| is_new)
        && let Err(error) = act(context, container, id, hook, Purpose::Hook, None).await
    {
        return Unhealthy { reason: format!("postStart: {error}"), grace };
    }
    if let Some(probe) = &container.startup {
        let startup = Following { context, container, id, probe, begun };
        if let Err(reason) = startup.until(true).await {
            return unhealthy(ProbeKind::Startup, &reason, probe, grace);
        }
    }
    let name = &container.name;
    context.conditions.change(name, |condition| {
        condition.is_started = true;
        condition.is_ready = container.readiness.is_none();
        condition.health = container.readiness.as_ref().map(|_| Health::default());
    });
    let readiness = async {
        if let Some(probe) = &container.readiness {
            Following { context, container, id, probe, begun }.readiness().await;
        }
        std::future::pending::<()>().await;
    };
    let liveness = async {
        let Some(probe) = &container.liveness else { return std::future::pending().await };
        let liveness = Following { context, container, id, probe, begun };
        let reason = liveness.until(false).await.err().unwrap_or_default();
        unhealthy(ProbeKind::Liveness, &reason, probe, grace)
    };
    tokio::select! {
        unhealthy = liveness => unhealthy,
        () = readiness => std::future::pending().await,
    }
}

fn unhealthy(kind: ProbeKind, reason: &str, probe: &Probe, grace: u32) -> Unhealthy {
    Unhealthy { reason: format!("{}: {reason}", kind.field()), grace: probe.grace.unwrap_or(grace) }
}

/// One probe of one container.
struct Following<'a> {
    context: &'a Context,
    container: &'a Container,
    id: &'a str,
    probe: &'a Probe,
    /// The start time of the container.
    begun: Instant,
}

impl Following<'_> {
    /// Runs until the probe has reached its failure threshold, and returns the last reason; with
    /// `or_success`, also until it succeeds.
    async fn until(&self, or_success: bool) -> Result<(), String> {
        let mut counter = ProbeCounter::default();
        let mut ticks = self.ticks().await;
        loop {
            ticks.tick().await;
            let outcome = self.once().await;
            match (counter.add(self.probe, outcome.is_ok()), outcome) {
                (Some(false), Err(reason)) => return Err(reason),
                (Some(true), _) if or_success => return Ok(()),
                _ => {}
            }
        }
    }

    /// Reports changes, without an end.
    async fn readiness(&self) {
        let mut counter = ProbeCounter::default();
        let mut ticks = self.ticks().await;
        let mut was_ready = None;
        loop {
            ticks.tick().await;
            let began_at = clock::now();
            let outcome = self.once().await;
            let is_ready = counter.add(self.probe, outcome.is_ok());
            let name = &self.container.name;
            let check = Check { began_at, ended_at: clock::now(), failure: outcome.as_ref().err().cloned() };
            self.context.conditions.change(name, |condition| {
                condition.health.get_or_insert_default().add(check, is_ready);
            });
            let Some(is_ready) = is_ready else { continue };
            if was_ready.replace(is_ready) == Some(is_ready) {
                continue;
            }
            self.context.conditions.change(name, |condition| condition.is_ready = is_ready);
            match outcome {
                Ok(()) => self.context.report.emit(format_args!("{name} is ready")),
                Err(reason) => self.context.report.emit(format_args!("{name} is not ready: {reason}")),
            }
        }
    }

    async fn ticks(&self) -> tokio::time::Interval {
        tokio::time::sleep_until(self.begun + self.probe.initial_delay).await;
        let mut ticks = tokio::time::interval(self.probe.period.max(Duration::from_secs(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    }

    async fn once(&self) -> Result<(), String> {
        let Self { context, container, id, probe, .. } = self;
        act(context, container, id, &probe.action, Purpose::Probe, Some(probe.timeout)).await
    }
}
