//! The operations of one server: a list of those under way, and an observer of their ends.
//!
//! An operation costs one insertion and one removal, a stage two short locks. Nothing is copied or formatted
//! before it is requested.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::trace::{self, Parent, Span};

/// The end of an operation that took this long is reported also when it succeeded.
const SLOW: Duration = Duration::from_secs(1);
/// In such a report, the stages that took this long are named, `SLOW_STAGES` at most.
const SLOW_STAGE: Duration = Duration::from_millis(100);
const SLOW_STAGES: usize = 16;

/// The operations of one server. Clones share the same list.
#[derive(Clone, Default)]
pub struct Operations(Arc<Table>);

#[derive(Default)]
struct Table {
    running: Mutex<BTreeMap<u64, Arc<Progress>>>,
    next: AtomicU64,
    ends: OnceLock<EndObserver>,
}

type EndObserver = Box<dyn Fn(&OperationEnd<'_>) + Send + Sync>;

/// The end of an operation that failed, took long, or has a remark.
#[derive(Debug)]
pub struct OperationEnd<'a> {
    pub operation: &'static str,
    pub subject: &'a str,
    pub took: Duration,
    /// Stages that took long, in the order of their ends.
    pub slow: Vec<(&'static str, Duration)>,
    /// See [`Progress::remark`].
    pub remark: Option<String>,
    /// The stage that failed, and the cause.
    pub failure: Option<(&'static str, String)>,
}

/// An operation under way, at the time of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationInfo {
    pub operation: &'static str,
    /// The subject: `container 0123…`.
    pub subject: String,
    pub since: Duration,
    /// The stage under way, the longest one when there are several; between stages, the one before.
    pub stage: &'static str,
    pub stage_since: Duration,
    /// The time left until the deadline of the stage. None when it has no deadline, or when that has passed.
    pub left: Option<Duration>,
    /// The reason why the operation waits, if it is known.
    pub waits_for: Option<String>,
}

/// The progress of an operation.
pub struct Progress {
    operation: &'static str,
    subject: String,
    begun: Instant,
    /// The parent of the spans of stages.
    span: Option<Parent>,
    state: Mutex<State>,
}

struct State {
    /// The stage that was entered last.
    last: (&'static str, Instant),
    running: Vec<RunningStage>,
    waits: Vec<(u64, String)>,
    next_wait: u64,
    slow: Vec<(&'static str, Duration)>,
    remark: Option<String>,
    span: Span,
}

struct RunningStage {
    name: &'static str,
    since: Instant,
    deadline: Instant,
}

impl Operations {
    /// Adds an operation to the list until the returned guard is dropped. If the present work is traced, it has a
    /// span.
    pub fn begin(&self, operation: &'static str, subject: String) -> RunningOperation {
        let begun = Instant::now();
        let mut span = trace::span(operation);
        if span.is_recording() {
            trace::describe(&mut span, &subject);
        }
        let parent = span.as_parent();
        let state = State {
            last: ("begin", begun),
            running: Vec::new(),
            waits: Vec::new(),
            next_wait: 0,
            slow: Vec::new(),
            remark: None,
            span,
        };
        let progress =
            Arc::new(Progress { operation, subject, begun, span: parent, state: Mutex::new(state) });
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.0.running().insert(number, progress.clone());
        RunningOperation { table: self.0.clone(), number, progress }
    }

    /// The operations that have been under way for at least `longer_than`, the oldest first.
    #[must_use]
    pub fn list(&self, longer_than: Duration) -> Vec<OperationInfo> {
        let running: Vec<_> = self.0.running().values().cloned().collect();
        let now = Instant::now();
        let infos = running.iter().map(|progress| progress.info(now));
        infos.filter(|info| info.since >= longer_than).collect()
    }

    /// Sets the observer of ends. It must be quick. Only the first call has an effect.
    pub fn on_end(&self, observer: impl Fn(&OperationEnd<'_>) + Send + Sync + 'static) {
        let _ = self.0.ends.set(Box::new(observer));
    }
}

impl Table {
    fn running(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Progress>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps an operation in the list.
pub struct RunningOperation {
    table: Arc<Table>,
    number: u64,
    progress: Arc<Progress>,
}

impl RunningOperation {
    #[must_use]
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Reports the end to the observer when the operation failed, took long or has a remark.
    pub fn end(&self, failure: impl FnOnce() -> Option<(&'static str, String)>) {
        let observer = self.table.ends.get();
        if observer.is_none() && self.progress.span.is_none() {
            return;
        }
        let took = self.progress.begun.elapsed();
        let failure = failure();
        self.progress.end_span(failure.as_ref());
        let Some(observer) = observer else { return };
        let (slow, remark) = {
            let mut state = self.progress.state();
            (std::mem::take(&mut state.slow), state.remark.take())
        };
        if failure.is_some() || remark.is_some() || took >= SLOW {
            let Progress { operation, subject, .. } = &*self.progress;
            observer(&OperationEnd { operation, subject, took, slow, remark, failure });
        }
    }
}

impl Drop for RunningOperation {
    fn drop(&mut self) {
        self.table.running().remove(&self.number);
    }
}

impl Progress {
    #[must_use]
    pub fn operation(&self) -> &'static str {
        self.operation
    }

    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The stage that was entered last.
    #[must_use]
    pub fn last_stage(&self) -> &'static str {
        self.state().last.0
    }

    /// Enters a stage, until the returned guard is dropped.
    pub fn enter(self: &Arc<Self>, name: &'static str, deadline: Instant) -> EnteredStage {
        let since = Instant::now();
        let mut state = self.state();
        state.last = (name, since);
        state.running.push(RunningStage { name, since, deadline });
        drop(state);
        EnteredStage { progress: self.clone(), name, span: trace::child(self.span.as_ref(), name) }
    }

    fn end_span(&self, failure: Option<&(&'static str, String)>) {
        let mut state = self.state();
        if let Some(remark) = &state.remark {
            let remark = remark.clone();
            state.span.set("crisp.remark", || remark);
        }
        if let Some((stage, reason)) = failure {
            state.span.set("crisp.stage", || *stage);
            state.span.fail(reason);
        }
        state.span.end();
    }

    /// Notes what the operation waits for, until the returned guard is dropped.
    pub fn waits_for(self: &Arc<Self>, what: String) -> Wait {
        let mut state = self.state();
        let number = state.next_wait;
        state.next_wait += 1;
        state.waits.push((number, what));
        drop(state);
        Wait { progress: self.clone(), number }
    }

    /// Sets a text for the report of the end. The report is then made also when the operation succeeds
    /// quickly.
    pub fn remark(&self, text: String) {
        self.state().remark = Some(text);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn info(&self, now: Instant) -> OperationInfo {
        let state = self.state();
        let (stage, since, deadline) = match state.running.first() {
            Some(stage) => (stage.name, stage.since, Some(stage.deadline)),
            None => (state.last.0, state.last.1, None),
        };
        let left = deadline.map(|deadline| deadline.saturating_duration_since(now));
        OperationInfo {
            operation: self.operation,
            subject: self.subject.clone(),
            since: now.saturating_duration_since(self.begun),
            stage,
            stage_since: now.saturating_duration_since(since),
            left: left.filter(|left| !left.is_zero()),
            waits_for: state.waits.first().map(|(_, what)| what.clone()),
        }
    }
}

/// A stage under way.
#[must_use = "the stage is left at once when this is dropped"]
pub struct EnteredStage {
    progress: Arc<Progress>,
    name: &'static str,
    span: Span,
}

impl EnteredStage {
    /// The parent of the spans of its work.
    #[must_use]
    pub fn as_parent(&self) -> Option<Parent> {
        self.span.as_parent()
    }

    /// Notes the failure of the stage in its span.
    pub fn fail(&mut self, error: &impl std::fmt::Display) {
        self.span.fail(error);
    }
}

impl Drop for EnteredStage {
    fn drop(&mut self) {
        let mut state = self.progress.state();
        let Some(at) = state.running.iter().rposition(|stage| stage.name == self.name) else { return };
        let took = state.running.remove(at).since.elapsed();
        if took >= SLOW_STAGE && state.slow.len() < SLOW_STAGES {
            state.slow.push((self.name, took));
        }
    }
}

/// A reason why an operation waits.
#[must_use = "the wait is over when this is dropped"]
pub struct Wait {
    progress: Arc<Progress>,
    number: u64,
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.progress.state().waits.retain(|(number, _)| *number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn what_is_under_way_is_listed_with_its_stage_and_what_it_waits_for() {
        let operations = Operations::default();
        let running = operations.begin("run_pod", "pod p".into());
        let list = || operations.list(Duration::ZERO);
        assert_eq!((list()[0].stage, list()[0].left), ("begin", None));
        let network = running.progress().enter("network", soon());
        let wait = running.progress().waits_for("the CNI plugin bridge (ADD)".into());
        let beside = running.progress().enter("controllers", soon());
        let info = list().remove(0);
        assert_eq!((info.operation, info.subject.as_str(), info.stage), ("run_pod", "pod p", "network"));
        assert_eq!(info.waits_for.as_deref(), Some("the CNI plugin bridge (ADD)"));
        assert!(info.left.is_some_and(|left| left > Duration::from_secs(4)));
        drop((network, wait));
        assert_eq!((list()[0].stage, &list()[0].waits_for), ("controllers", &None));
        assert_eq!(operations.list(Duration::from_secs(60)), []);
        drop((beside, running));
        assert_eq!(list(), []);
    }

    #[test]
    fn failures_and_remarks_are_told_and_quick_successes_are_not() {
        let operations = Operations::default();
        let told = Arc::new(Mutex::new(Vec::new()));
        let seen = told.clone();
        operations.on_end(move |end| {
            let stage = end.failure.as_ref().map(|(stage, why)| format!("{stage}: {why}"));
            seen.lock().unwrap().push((end.operation, stage, end.remark.clone()));
        });
        operations.begin("quick", "x".into()).end(|| None);
        operations.begin("fails", "x".into()).end(|| Some(("root", "no space".into())));
        let pull = operations.begin("pull", "x".into());
        pull.progress().remark("from a".into());
        pull.end(|| None);
        let told = told.lock().unwrap();
        assert_eq!(told[0], ("fails", Some("root: no space".into()), None));
        assert_eq!(told[1], ("pull", None, Some("from a".into())));
        assert_eq!(told.len(), 2);
    }
}
