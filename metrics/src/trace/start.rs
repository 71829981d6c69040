//! Starts traces, and the spans of RPCs.

use std::borrow::Cow;
use std::time::Duration;

use http::HeaderMap;
use opentelemetry::trace::{SpanBuilder, SpanKind, TraceContextExt as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, SpanExporter as _};
use prometheus::Registry;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::context::client_context;
use super::export::{ExportMetrics, Exporter};
use super::span::Span;

/// Time limit for the connection and each try of an export, so that a hanging one is tried again.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long the end waits for the last spans to be sent.
const FLUSH: Duration = Duration::from_secs(1);
const MILLION: u32 = 1_000_000;

/// Where spans are sent, and which.
#[derive(Debug, Clone)]
pub struct TraceConfig {
    /// The collector: `HOST:PORT`, without TLS.
    pub endpoint: String,
    /// Of the requests without a trace of their client, so many of a million begin one. A client's own decision is
    /// always followed.
    pub rate_per_million: u32,
    /// The version of this program.
    pub version: &'static str,
}

/// The reason why nothing can be traced.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("no spans can be sent to {endpoint}: {source}")]
    Exporter { endpoint: String, source: ExporterBuildError },
    #[error("{0}")]
    Metrics(#[from] prometheus::Error),
}

/// Sends spans until it is shut down.
pub struct Tracing {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Tracing {
    /// Sends the spans that wait, for a second at most, whatever the collector does.
    pub async fn shut_down(mut self) {
        self.stop.send_replace(true);
        if tokio::time::timeout(FLUSH, &mut self.task).await.is_err() {
            tracing::warn!("the collector of traces does not respond: the last spans are lost");
            self.task.abort();
        }
    }
}

/// Starts the spans of RPCs.
pub(crate) struct Tracer {
    tracer: SdkTracer,
    is_only_followed: bool,
}

/// See [`crate::Metrics::start_tracing`].
pub(crate) fn start(config: TraceConfig, registry: &Registry) -> Result<(Tracer, Tracing), TraceError> {
    let TraceConfig { endpoint, rate_per_million, version } = config;
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(format!("http://{endpoint}"))
        .with_timeout(ATTEMPT)
        .build();
    let mut exporter =
        exporter.map_err(|source| TraceError::Exporter { endpoint: endpoint.clone(), source })?;
    let resource = resource(version);
    exporter.set_resource(&resource);
    let (queue, exporter) = Exporter::new(exporter, endpoint, ExportMetrics::register(registry)?);
    let share = f64::from(rate_per_million) / f64::from(MILLION);
    let provider = SdkTracerProvider::builder()
        .with_resource(resource)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share))))
        .with_span_processor(queue)
        .build();
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(exporter.run(stopped));
    let tracer = Tracer { tracer: provider.tracer("crisp"), is_only_followed: rate_per_million == 0 };
    Ok((tracer, Tracing { stop, task }))
}

fn resource(version: &'static str) -> Resource {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", "crisp"),
            KeyValue::new("service.version", version),
            KeyValue::new("host.name", host),
        ])
        .build()
}

impl Tracer {
    /// The span of an RPC: in the trace of its client, or in a new one. `path`: `package.Service/Method`.
    pub(crate) fn rpc(&self, headers: &HeaderMap, path: &'static str) -> Span {
        let client = client_context(headers);
        if client.as_ref().map_or(self.is_only_followed, |client| !client.is_sampled()) {
            return Span::default();
        }
        let parent =
            client.map_or_else(Context::new, |client| Context::new().with_remote_span_context(client));
        let (service, method) = path.split_once('/').unwrap_or((path, ""));
        let builder =
            SpanBuilder::from_name(Cow::Borrowed(path)).with_kind(SpanKind::Server).with_attributes([
                KeyValue::new("rpc.system", "grpc"),
                KeyValue::new("rpc.service", service),
                KeyValue::new("rpc.method", method),
            ]);
        Span::start(&self.tracer, builder, &parent)
    }
}
