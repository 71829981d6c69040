//! A tower layer that measures RPCs: the time until the last byte, and the code.
//!
//! The code of a gRPC call is in the trailers after the body, or in the headers when there is no body.

mod body;

use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use http_body::Body;
use prometheus::{HistogramOpts, HistogramVec, IntGauge, IntGaugeVec, Opts, Registry};
use tower_layer::Layer;
use tower_service::Service;

pub use self::body::{RpcBody, RpcFuture};
use crate::DURATION_BUCKETS;
use crate::exemplars::{self, Exemplars};
use crate::trace::{Span, Tracer, run_within};

/// Upper bounds in seconds: from a list in pieces to a day of events.
const STREAM_BUCKETS: &[f64] = &[0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 21600.0, 86400.0];

/// The labels of all calls to paths that are not RPCs of this server.
const OTHER: (&str, &str) = ("other", "other");

/// Names of the gRPC codes by number, as in the gRPC documentation.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// The codes that are failures of a server, by OpenTelemetry's conventions: the others are about the request.
const FAILURES: [&str; 6] =
    ["Unknown", "DeadlineExceeded", "Unimplemented", "Internal", "Unavailable", "DataLoss"];

#[derive(Clone)]
pub(crate) struct RpcMetrics {
    duration: HistogramVec,
    stream_duration: HistogramVec,
    in_flight: IntGaugeVec,
    /// Of `duration`.
    pub(crate) exemplars: Arc<Exemplars>,
}

impl RpcMetrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let duration = HistogramVec::new(
            HistogramOpts::new(
                exemplars::FAMILY,
                "Duration of an RPC until its last byte, by the gRPC code it ended with.",
            )
            .buckets(DURATION_BUCKETS.to_vec()),
            &["service", "method", "code"],
        )?;
        let stream_duration = HistogramVec::new(
            HistogramOpts::new(
                "crisp_rpc_stream_duration_seconds",
                "Duration of an RPC whose reply is a stream, which may be as long as its client wants.",
            )
            .buckets(STREAM_BUCKETS.to_vec()),
            &["service", "method", "code"],
        )?;
        let in_flight = IntGaugeVec::new(
            Opts::new("crisp_rpc_in_flight", "RPCs that have begun and not ended."),
            &["service", "method"],
        )?;
        registry.register(Box::new(duration.clone()))?;
        registry.register(Box::new(stream_duration.clone()))?;
        registry.register(Box::new(in_flight.clone()))?;
        Ok(Self { duration, stream_duration, in_flight, exemplars: Arc::default() })
    }
}

/// See [`crate::Metrics::rpc_layer`].
#[derive(Clone)]
pub struct RpcLayer {
    metrics: RpcMetrics,
    tracer: Arc<OnceLock<Tracer>>,
    known: &'static [&'static str],
    streams: &'static [&'static str],
}

impl RpcLayer {
    pub(crate) fn new(
        metrics: RpcMetrics,
        tracer: Arc<OnceLock<Tracer>>,
        known: &'static [&'static str],
        streams: &'static [&'static str],
    ) -> Self {
        Self { metrics, tracer, known, streams }
    }
}

impl<S> Layer<S> for RpcLayer {
    type Service = RpcService<S>;
    fn layer(&self, inner: S) -> RpcService<S> {
        RpcService { inner, layer: self.clone() }
    }
}

/// The service that [`RpcLayer`] makes.
#[derive(Clone)]
pub struct RpcService<S> {
    inner: S,
    layer: RpcLayer,
}

impl<S, B, R> Service<http::Request<B>> for RpcService<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    R: Body,
{
    type Response = http::Response<RpcBody<R>>;
    type Error = S::Error;
    type Future = RpcFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let call = Call::begin(&self.layer, request.uri().path(), request.headers());
        let inner = run_within(call.span.as_parent(), || self.inner.call(request));
        RpcFuture::new(inner, call)
    }
}

/// One call under way; it is counted when it is dropped.
struct Call {
    duration: HistogramVec,
    labels: (&'static str, &'static str),
    in_flight: IntGauge,
    started: Instant,
    code: &'static str,
    span: Span,
    /// None for a stream.
    exemplars: Option<Arc<Exemplars>>,
}

impl Call {
    fn begin(layer: &RpcLayer, path: &str, headers: &HeaderMap) -> Self {
        let known = layer.known.iter().find(|known| **known == path);
        let labels = known.map_or(OTHER, |known| split(known));
        let span = layer.tracer.get().map(|tracer| {
            tracer.rpc(headers, known.map_or("other/other", |known| known.trim_start_matches('/')))
        });
        let in_flight = layer.metrics.in_flight.with_label_values(&[labels.0, labels.1]);
        in_flight.inc();
        let RpcMetrics { duration, stream_duration, exemplars, .. } = &layer.metrics;
        let is_stream = layer.streams.contains(&path);
        let duration = if is_stream { stream_duration } else { duration };
        let span = span.unwrap_or_default();
        // The code when the call is dropped before it has another one: the client is gone.
        Self {
            duration: duration.clone(),
            labels,
            in_flight,
            started: Instant::now(),
            code: "Canceled",
            exemplars: (span.is_recording() && !is_stream).then(|| exemplars.clone()),
            span,
        }
    }

    fn see(&mut self, headers: &HeaderMap) {
        if let Some(status) = headers.get("grpc-status") {
            let number = status.to_str().ok().and_then(|s| s.parse::<usize>().ok());
            self.code = number.and_then(|n| CODES.get(n)).unwrap_or(&"Unknown");
            if self.span.is_recording() && FAILURES.contains(&self.code) {
                self.span.fail(&message(headers));
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let code = self.code;
        let number = || CODES.iter().position(|name| *name == code).and_then(|n| i64::try_from(n).ok());
        self.span.set("rpc.grpc.status_code", || number().unwrap_or_default());
        self.in_flight.dec();
        let seconds = self.started.elapsed().as_secs_f64();
        let series = [self.labels.0, self.labels.1, code];
        self.duration.with_label_values(&series).observe(seconds);
        if let (Some(exemplars), Some(trace_id)) = (&self.exemplars, self.span.trace_id()) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            exemplars.record(series, seconds, trace_id, now.as_secs_f64());
        }
    }
}

/// The text of the error, which is escaped as in a URL.
fn message(headers: &HeaderMap) -> String {
    let escaped = headers.get("grpc-message").map_or(&[][..], |message| message.as_bytes());
    percent_encoding::percent_decode(escaped).decode_utf8_lossy().into_owned()
}

/// `/runtime.v1.RuntimeService/Version` is service `RuntimeService`, method `Version`.
fn split(path: &'static str) -> (&'static str, &'static str) {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or(OTHER);
    (service.rsplit('.').next().unwrap_or(service), method)
}

#[cfg(test)]
mod tests;
