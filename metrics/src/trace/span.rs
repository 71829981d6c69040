//! Spans, and which one is the present one.

use std::borrow::Cow;
use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::SystemTime;

use opentelemetry::trace::{Span as _, SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::trace::{SdkTracer, Span as SdkSpan};
use pin_project_lite::pin_project;
use tokio::task::futures::TaskLocalFuture;

use crate::passwords::without_passwords;

/// Limit for the text of an error or attribute, in bytes.
const MAX_TEXT: usize = 1024;

tokio::task_local! {
    static CURRENT: Parent;
}

/// A span that can have children, in other tasks and threads too.
#[derive(Clone)]
pub struct Parent(Arc<ParentSpan>);

struct ParentSpan {
    tracer: SdkTracer,
    context: Context,
}

/// A piece of work in a trace; it ends when this is dropped. Most often it records nothing, because there is no trace.
#[must_use = "the span ends when this is dropped"]
#[derive(Default)]
pub struct Span(Option<Box<Recording>>);

struct Recording {
    span: SdkSpan,
    parent: Parent,
}

impl Span {
    pub(super) fn start(tracer: &SdkTracer, builder: SpanBuilder, parent: &Context) -> Self {
        let span = tracer.build_with_context(builder, parent);
        if !span.is_recording() {
            return Self(None);
        }
        let context = Context::new().with_remote_span_context(span.span_context().clone());
        let parent = Parent(Arc::new(ParentSpan { tracer: tracer.clone(), context }));
        Self(Some(Box::new(Recording { span, parent })))
    }

    /// Whether it will be sent to the collector.
    #[must_use]
    pub fn is_recording(&self) -> bool {
        self.0.is_some()
    }

    /// The parent of spans for parts of this work. None when nothing is recorded.
    #[must_use]
    pub fn as_parent(&self) -> Option<Parent> {
        self.0.as_ref().map(|recording| recording.parent.clone())
    }

    /// The trace of this span, as hexadecimal digits. None when nothing is recorded.
    #[must_use]
    pub fn trace_id(&self) -> Option<String> {
        self.0.as_ref().map(|recording| recording.span.span_context().trace_id().to_string())
    }

    /// Sets an attribute. `value` is called only when the span is recorded.
    pub fn set<V: Into<Value>>(&mut self, key: &'static str, value: impl FnOnce() -> V) {
        if let Some(recording) = &mut self.0 {
            let value = match value().into() {
                Value::String(text) if text.as_str().len() > MAX_TEXT => cut(text.as_str()).into(),
                value => value,
            };
            recording.span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// Notes something that happened at `time`, which may be before now.
    pub fn event_at(&mut self, name: &'static str, time: SystemTime) {
        if let Some(recording) = &mut self.0 {
            recording.span.add_event_with_timestamp(name, time, Vec::new());
        }
    }

    /// Notes that the work has failed, with the cause.
    pub fn fail(&mut self, error: &(impl Display + ?Sized)) {
        if let Some(recording) = &mut self.0 {
            recording.span.set_status(Status::error(cut(&without_passwords(&error.to_string()))));
        }
    }

    /// Ends the span, which has failed if `result` has, and returns `result`.
    ///
    /// # Errors
    /// The error in `result`.
    pub fn done<T, E: Display>(mut self, result: Result<T, E>) -> Result<T, E> {
        result.inspect_err(|error| self.fail(error))
    }

    /// Ends the span now.
    pub fn end(&mut self) {
        self.0 = None;
    }
}

fn cut(text: &str) -> String {
    let ends = (0..=MAX_TEXT.min(text.len())).rev();
    let end = ends.into_iter().find(|&end| text.is_char_boundary(end)).unwrap_or_default();
    format!("{}{}", &text[..end], if end < text.len() { "…" } else { "" })
}

/// The span of the work that this code is a part of, if it is traced.
#[must_use]
pub fn current() -> Option<Parent> {
    CURRENT.try_with(Parent::clone).ok()
}

/// A span for a part of the present work.
pub fn span(name: &'static str) -> Span {
    child(current().as_ref(), name)
}

/// A span for a request to another process, as a part of the present work. `name` is called only when it is
/// recorded.
pub fn client_span(name: impl FnOnce() -> String) -> Span {
    let Some(parent) = current() else { return Span(None) };
    start_child(&parent, name().into(), SpanKind::Client)
}

/// A span for a part of the work of `parent`; without a parent it records nothing.
pub fn child(parent: Option<&Parent>, name: &'static str) -> Span {
    parent.map(|parent| start_child(parent, name.into(), SpanKind::Internal)).unwrap_or_default()
}

fn start_child(Parent(parent): &Parent, name: Cow<'static, str>, kind: SpanKind) -> Span {
    // A registry chooses the address to which it redirects.
    let name = if name.len() > MAX_TEXT { cut(&name).into() } else { name };
    Span::start(&parent.tracer, SpanBuilder::from_name(name).with_kind(kind), &parent.context)
}

/// Makes `parent` the present span of `work`.
pub fn within<F: Future>(parent: Option<Parent>, work: F) -> Within<F> {
    match parent {
        Some(parent) => Within::Traced { work: CURRENT.scope(parent, work) },
        None => Within::Plain { work },
    }
}

/// Makes the present span that of `work`, which another task will run.
pub fn in_current<F: Future>(work: F) -> Within<F> {
    within(current(), work)
}

/// As [`within`], for work on this thread.
pub fn run_within<T>(parent: Option<Parent>, work: impl FnOnce() -> T) -> T {
    match parent {
        Some(parent) => CURRENT.sync_scope(parent, work),
        None => work(),
    }
}

pin_project! {
    /// The future of [`within`].
    #[project = WithinProjection]
    pub enum Within<F> {
        /// In a trace.
        Traced {
            #[pin]
            work: TaskLocalFuture<Parent, F>,
        },
        /// In none.
        Plain {
            #[pin]
            work: F,
        },
    }
}

impl<F: Future> Future for Within<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<F::Output> {
        match self.project() {
            WithinProjection::Traced { work } => work.poll(cx),
            WithinProjection::Plain { work } => work.poll(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_trace_nothing_is_recorded() {
        let mut span = span("network");
        span.set("sandbox.id", || -> String { panic!("a value for nothing") });
        assert!(span.as_parent().is_none() && span.trace_id().is_none() && current().is_none());
    }

    #[test]
    fn texts_have_an_end() {
        assert_eq!(cut("short"), "short");
        let long = cut(&"é".repeat(2000));
        assert!(long.len() <= MAX_TEXT + "…".len() && long.ends_with("é…"), "{}", long.len());
    }
}
