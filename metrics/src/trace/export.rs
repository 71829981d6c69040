//! From the end of a span to the collector: a bounded queue, and a task that sends batches.
//!
//! Ending a span waits for nothing: with a full queue it is dropped, and counted.

use std::time::{Duration, Instant};

use opentelemetry::Context;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter as _, SpanProcessor};
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

/// Spans that wait for the collector: at most a few MB.
const QUEUE: usize = 2048;
/// Spans in one message.
const BATCH: usize = 512;
/// How long the first span of a batch waits for others.
const GATHER: Duration = Duration::from_millis(200);
/// Time limit for one message.
const EXPORT: Duration = Duration::from_secs(10);
/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(5);
/// Failures are logged once in this time.
const LOG: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub(super) struct ExportMetrics {
    exported: IntCounter,
    queue_full: IntCounter,
    failed: IntCounter,
}

impl ExportMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let exported =
            IntCounter::new("crisp_trace_exported_spans_total", "Spans that the collector has accepted.")?;
        let help =
            "Spans that were lost: queue_full, or export_failed after the collector did not accept them.";
        let dropped = IntCounterVec::new(Opts::new("crisp_trace_dropped_spans_total", help), &["reason"])?;
        registry.register(Box::new(exported.clone()))?;
        registry.register(Box::new(dropped.clone()))?;
        let [queue_full, failed] =
            ["queue_full", "export_failed"].map(|reason| dropped.with_label_values(&[reason]));
        Ok(Self { exported, queue_full, failed })
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Without a sender, nothing is traced any more either.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// The end of the queue at which spans go in.
#[derive(Debug)]
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    dropped: IntCounter,
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.dropped.inc();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Sends what is in the queue, until it is stopped.
pub(super) struct Exporter {
    collector: SpanExporter,
    endpoint: String,
    spans: mpsc::Receiver<SpanData>,
    metrics: ExportMetrics,
    logged: Option<Instant>,
}

impl Exporter {
    pub(super) fn new(collector: SpanExporter, endpoint: String, metrics: ExportMetrics) -> (Queue, Self) {
        let (sender, spans) = mpsc::channel(QUEUE);
        let queue = Queue { spans: sender, dropped: metrics.queue_full.clone() };
        (queue, Self { collector, endpoint, spans, metrics, logged: None })
    }

    /// Sends until `stop` is true, then what is still in the queue, unless the collector is out of reach.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut is_reachable = true;
        loop {
            let mut batch = Vec::new();
            tokio::select! {
                received = self.spans.recv_many(&mut batch, BATCH) => if received == 0 { return },
                () = stopped(&mut stop) => break,
            }
            if batch.len() < BATCH {
                tokio::select! {
                    () = sleep(GATHER) => {}
                    () = stopped(&mut stop) => {}
                }
            }
            self.fill(&mut batch);
            is_reachable = self.send(batch).await;
            if !is_reachable {
                tokio::select! {
                    () = sleep(PAUSE) => {}
                    () = stopped(&mut stop) => {}
                }
            }
        }
        self.spans.close();
        while is_reachable {
            let mut batch = Vec::new();
            self.fill(&mut batch);
            if batch.is_empty() {
                return;
            }
            is_reachable = self.send(batch).await;
        }
    }

    fn fill(&mut self, batch: &mut Vec<SpanData>) {
        while batch.len() < BATCH
            && let Ok(span) = self.spans.try_recv()
        {
            batch.push(span);
        }
    }

    /// Whether the collector has accepted the batch. Otherwise it is lost.
    async fn send(&mut self, batch: Vec<SpanData>) -> bool {
        let count = batch.len() as u64;
        let error = match timeout(EXPORT, self.collector.export(batch)).await {
            Ok(Ok(())) => {
                self.metrics.exported.inc_by(count);
                return true;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no response within {} s", EXPORT.as_secs()),
        };
        self.metrics.failed.inc_by(count);
        if self.logged.is_none_or(|logged| logged.elapsed() >= LOG) {
            self.logged = Some(Instant::now());
            tracing::warn!(
                endpoint = self.endpoint,
                error,
                "spans cannot be sent to the collector of traces"
            );
        }
        false
    }
}
