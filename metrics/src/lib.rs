//! The server's own metrics, for Prometheus.
//!
//! ```text
//!  gRPC -> RpcLayer ----.                          (spans of the same: trace/ -> OTLP collector)
//!  operations -> Timer -+-> Metrics (one registry) <- page.rs: GET /metrics <- Prometheus
//!  crates' own metrics -'         ^
//!                                 |- ProcessCollector reads /proc during a scrape
//!                                 '- set_pod_metrics: thousands of samples, for GET /metrics/cadvisor
//! ```
//!
//! Cast: [`Metrics`] is the registry of all metrics; [`Timer`] measures one stage of one operation;
//! [`Operations`] lists those under way; [`RpcLayer`] measures every RPC; [`MetricsServer`] serves the page;
//! [`accept`] accepts connections for it and for the server's other listeners, [`tls`] has their certificates;
//! [`trace`] makes spans of RPCs, operations, stages and requests. A metric belongs to the crate
//! that does the work; only metrics that are common to all are here. Names start with `crisp_`, except for
//! the `process_*` metrics that dashboards expect of every server.
//!
//! Clients that ask for it get the first page as OpenMetrics; the durations of RPCs have the ids of traces as
//! exemplars there.
//!
//! The table at the end compares the metrics of pods with those of a kubelet.
//!
//! A collector computes its values in `collect`, which is called during a scrape and at no other time.
//!
//! ```
//! let metrics = crisp_metrics::Metrics::new("0.1.0").unwrap();
//! let timer = metrics.stage("run_pod", "network");
//! timer.ok();
//! assert!(metrics.text().contains(r#"crisp_stage_duration_seconds_count{operation="run_pod",outcome="ok",stage="network"} 1"#));
//! ```

#![doc = include_str!("../CADVISOR.md")]
//!
#![doc = include_str!("../CADVISOR-V2.md")]
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod accept;
mod connections;
mod exemplars;
mod openmetrics;
pub mod operations;
mod page;
mod passwords;
mod process;
mod rpc;
mod running;
mod stage;
pub mod tls;
pub mod trace;

use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

pub use accept::accept;
pub use operations::Operations;
pub use page::{Access, MetricsServer, ServeError, TokenFile};
pub use passwords::without_passwords;
pub use prometheus;
use prometheus::core::Collector;
use prometheus::{Encoder as _, IntGauge, Opts, Registry, TextEncoder};
pub use rpc::{RpcBody, RpcLayer, RpcService};
pub use stage::Timer;

/// Upper bounds of all our duration histograms, in seconds: from a list answered from memory to a large pull.
pub const DURATION_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
    300.0,
];

/// The registry of one server. Clones share the same registry.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    /// Held during a scrape: two scrapes at once would count into the same gauges of a collector.
    scraping: Mutex<()>,
    /// The turn of the scrapes of the pages, which wait for it without a thread.
    scraper: Arc<tokio::sync::Mutex<()>>,
    stages: prometheus::HistogramVec,
    rpcs: rpc::RpcMetrics,
    pods: OnceLock<PodMetrics>,
    readiness: OnceLock<CheckReadiness>,
    operations: Operations,
    undo_failures: prometheus::IntCounterVec,
    /// Empty unless traces are on.
    tracer: Arc<OnceLock<trace::Tracer>>,
}

type PodMetrics = Box<dyn Fn(&mut String) + Send + Sync>;
type CheckReadiness = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Vec<Readiness>> + Send>> + Send + Sync>;

/// A condition that must hold for running pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// The name of the CRI's condition.
    pub name: &'static str,
    /// The problem, as a text for the user.
    pub failure: Option<String>,
}

impl Metrics {
    /// Makes a registry with the common metrics: build info, process metrics, stage and RPC durations.
    ///
    /// # Errors
    /// Only when two of our own metrics have the same name.
    pub fn new(version: &str) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let build = IntGauge::with_opts(
            Opts::new("crisp_build_info", "1; the version is in the label.").const_label("version", version),
        )?;
        build.set(1);
        registry.register(Box::new(build))?;
        registry.register(Box::new(process::ProcessCollector::new()?))?;
        let stages = stage::histogram()?;
        registry.register(Box::new(stages.clone()))?;
        let rpcs = rpc::RpcMetrics::register(&registry)?;
        let operations = Operations::default();
        registry.register(Box::new(running::RunningCollector::new(operations.clone())?))?;
        let undo_failures = stage::undo_failures()?;
        registry.register(Box::new(undo_failures.clone()))?;
        Ok(Self {
            inner: Arc::new(Inner {
                registry,
                scraping: Mutex::default(),
                scraper: Arc::default(),
                stages,
                rpcs,
                pods: OnceLock::new(),
                readiness: OnceLock::new(),
                operations,
                undo_failures,
                tracer: Arc::default(),
            }),
        })
    }

    /// The registry itself, for the `register_*_with_registry!` macros.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    /// Adds a metric of another crate, or a collector that computes its values during a scrape.
    ///
    /// # Errors
    /// When there is already a metric of that name.
    pub fn register(&self, collector: Box<dyn Collector>) -> Result<(), prometheus::Error> {
        self.inner.registry.register(collector)
    }

    /// Sets the function that writes the metrics of pods, in the text format: for thousands of samples this
    /// takes a tenth of the time that a collector takes. Only the first call has an effect.
    pub fn set_pod_metrics(&self, write: impl Fn(&mut String) + Send + Sync + 'static) {
        let _ = self.inner.pods.set(Box::new(write));
    }

    /// The metrics of pods in the Prometheus text format; empty when no function is set.
    #[must_use]
    pub fn pods_text(&self) -> String {
        let _scraping = self.inner.scraping.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        self.inner.pods.get().iter().for_each(|write| write(&mut text));
        text
    }

    /// Sets the function that checks whether pods can be run, for `GET /readyz`. Only the first call has an
    /// effect.
    pub fn set_readiness(
        &self,
        check: impl Fn() -> Pin<Box<dyn Future<Output = Vec<Readiness>> + Send>> + Send + Sync + 'static,
    ) {
        let _ = self.inner.readiness.set(Box::new(check));
    }

    fn scraper(&self) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(&self.inner.scraper)
    }

    async fn readiness(&self) -> Vec<Readiness> {
        match self.inner.readiness.get() {
            Some(check) => check().await,
            None => Vec::new(),
        }
    }

    /// Starts to measure one stage of one operation.
    pub fn stage(&self, operation: &'static str, stage: &'static str) -> Timer {
        Timer::start(self.inner.stages.clone(), operation, stage)
    }

    /// The operations of this server.
    #[must_use]
    pub fn operations(&self) -> &Operations {
        &self.inner.operations
    }

    /// Counts an undo step that failed or missed its deadline: something may be left behind.
    pub fn undo_failed(&self, operation: &str, stage: &str) {
        self.inner.undo_failures.with_label_values(&[operation, stage]).inc();
    }

    /// A tower layer that measures the RPCs whose paths are in `known`; calls to other paths share one label,
    /// so that a client cannot make up series. `streams` are those whose reply is a stream: how long they last is
    /// up to the client.
    #[must_use]
    pub fn rpc_layer(&self, known: &'static [&'static str], streams: &'static [&'static str]) -> RpcLayer {
        RpcLayer::new(self.inner.rpcs.clone(), self.inner.tracer.clone(), known, streams)
    }

    /// Sends spans of RPCs, and of what is done for them, to a collector from now on. Only the first call has an
    /// effect. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The address cannot be that of a collector. Whether there is one is found out later, by each export.
    pub fn start_tracing(&self, config: trace::TraceConfig) -> Result<trace::Tracing, trace::TraceError> {
        let (tracer, tracing) = trace::start(config, self.registry())?;
        let _ = self.inner.tracer.set(tracer);
        Ok(tracing)
    }

    /// All metrics in the OpenMetrics format, with the traces of RPCs as exemplars. This call runs the collectors.
    #[must_use]
    pub fn openmetrics(&self) -> String {
        let _scraping = self.inner.scraping.lock().unwrap_or_else(PoisonError::into_inner);
        openmetrics::encode(&self.inner.registry.gather(), &self.inner.rpcs.exemplars)
    }

    /// All metrics in the Prometheus text format. This call runs the collectors.
    #[must_use]
    pub fn text(&self) -> String {
        let _scraping = self.inner.scraping.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.inner.registry.gather(), &mut text) {
            tracing::warn!(%error, "a metric cannot be written");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use prometheus::core::Desc;
    use prometheus::proto::MetricFamily;

    use super::*;

    #[test]
    fn the_page_passes_promtools_check() {
        let metrics = Metrics::new("1.2.3").unwrap();
        metrics.stage("pull", "fetch").ok();
        metrics.stage("pull", "unpack").failed();
        crisp_skip::needs!("promtool");
        let mut tool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        tool.stdin.take().unwrap().write_all(metrics.text().as_bytes()).unwrap();
        let output = tool.wait_with_output().unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{}{}{}",
            metrics.text(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    #[test]
    fn names_are_ours_or_the_standard_process_metrics() {
        let metrics = Metrics::new("1.2.3").unwrap();
        metrics.stage("pull", "fetch").ok();
        let text = metrics.text();
        assert!(text.contains("crisp_build_info{version=\"1.2.3\"} 1"));
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            assert!(line.starts_with("crisp_") || line.starts_with("process_"), "{line}");
        }
    }

    #[test]
    fn dashboards_find_the_standard_process_metrics() {
        let text = Metrics::new("1").unwrap().text();
        for (name, kind) in [
            ("process_cpu_seconds_total", "counter"),
            ("process_resident_memory_bytes", "gauge"),
            ("process_virtual_memory_bytes", "gauge"),
            ("process_start_time_seconds", "gauge"),
            ("process_open_fds", "gauge"),
            ("process_max_fds", "gauge"),
            ("process_threads", "gauge"),
        ] {
            assert!(text.contains(&format!("# TYPE {name} {kind}\n{name} ")), "{name}: {text}");
        }
    }

    /// A collector whose gauge shows the number of scrapes at the same time.
    struct Exclusive(Arc<AtomicUsize>, IntGauge);

    impl Collector for Exclusive {
        fn desc(&self) -> Vec<&Desc> {
            self.1.desc()
        }
        fn collect(&self) -> Vec<MetricFamily> {
            let others = self.0.fetch_add(1, Ordering::SeqCst);
            self.1.add(others as i64);
            std::thread::sleep(std::time::Duration::from_millis(5));
            self.0.fetch_sub(1, Ordering::SeqCst);
            self.1.collect()
        }
    }

    #[test]
    fn scrapes_at_the_same_time_run_one_after_the_other() {
        let metrics = Metrics::new("1").unwrap();
        let gauge = IntGauge::new("crisp_test", "A test.").unwrap();
        metrics.register(Box::new(Exclusive(Arc::default(), gauge.clone()))).unwrap();
        std::thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(|| metrics.text()))));
        assert_eq!(gauge.get(), 0);
    }

    struct Counting(Arc<AtomicUsize>, IntGauge);

    impl Collector for Counting {
        fn desc(&self) -> Vec<&Desc> {
            self.1.desc()
        }
        fn collect(&self) -> Vec<MetricFamily> {
            self.0.fetch_add(1, Ordering::Relaxed);
            self.1.collect()
        }
    }

    #[test]
    fn collectors_run_only_during_a_scrape() {
        let metrics = Metrics::new("1").unwrap();
        let runs = Arc::new(AtomicUsize::new(0));
        let gauge = IntGauge::new("crisp_test", "A test.").unwrap();
        metrics.register(Box::new(Counting(Arc::clone(&runs), gauge))).unwrap();
        assert_eq!(runs.load(Ordering::Relaxed), 0);
        let _ = metrics.text();
        assert_eq!(runs.load(Ordering::Relaxed), 1);
    }
}
