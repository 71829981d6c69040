//! Traces: what one request did, as spans, sent to a collector over OTLP/gRPC.
//!
//! ```text
//!  gRPC metadata: traceparent
//!    '-> RpcLayer ── span of the RPC ──── a task-local says which span is the present one
//!          '-> operation (Operations::begin)            │
//!                '-> stage (Progress::enter) ───────────┤
//!                      '-> request to a monitor, a registry, a CNI plugin (client_span)
//!
//!  a span ends ──> queue (bounded) ──> exporter task ──> collector
//! ```
//!
//! Off, there is no tracer, so that no RPC has a span and nothing below it makes one: what is left is a look at a
//! task-local per operation. A span is also made only in a trace that is sampled: one of a client that samples,
//! or the chosen share of the others.
//!
//! Tasks and threads that do a part of the present work are given its span: [`in_current`], [`within`] and
//! [`run_within`]. The monitors make no spans, they are too small for that: the time of a request to one is that of
//! its span here.
//!
//! Attributes have ids and names, never a value from an environment, a login or a query string; texts of errors
//! lose the passwords of references. All are cut.

mod context;
mod export;
mod span;
mod start;
mod subject;

pub use self::span::{
    Parent, Span, Within, child, client_span, current, in_current, run_within, span, within,
};
pub use self::start::{TraceConfig, TraceError, Tracing};
pub(crate) use self::start::{Tracer, start};
pub(crate) use self::subject::describe;
