//! Traces, received by a collector.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crisp_e2e::collector::{Collector, Span};
use crisp_e2e::prometheus::Prometheus;
use crisp_e2e::registry::free_port;
use crisp_e2e::{Image, Lab, Machine, Result, Setup, http, needs, request};
use k8s_cri::v1::{
    ContainerConfig, CreateContainerRequest, ImageSpec, PodSandboxConfig, PullImageRequest,
    RunPodSandboxRequest, StartContainerRequest,
};
use serde_json::json;
use tonic::Request;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT: &str = "b7ad6b7169203331";

/// A request as a kubelet with traces sends it.
fn traced<T>(message: T) -> Request<T> {
    with_parent(message, &format!("00-{TRACE}-{CLIENT}-01"))
}

fn with_parent<T>(message: T, parent: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", parent.parse().expect("a header"));
    request
}

fn setup(endpoint: &str, more: &[&str]) -> Setup {
    let args = ["--tracing-endpoint", endpoint].iter().chain(more).map(|&arg| arg.to_owned()).collect();
    Setup { args, ..Default::default() }
}

fn pull(reference: &str) -> PullImageRequest {
    let image = Some(ImageSpec { image: reference.into(), ..Default::default() });
    PullImageRequest { image, ..Default::default() }
}

fn run(config: &PodSandboxConfig) -> RunPodSandboxRequest {
    RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() }
}

/// The ids of a pod and a container that were started as a kubelet does it.
async fn start_pod(lab: &mut Lab, name: &str, config: &ContainerConfig) -> Result<(String, String)> {
    let sandbox = request::pod(&lab.machine, name);
    let runtime = &mut lab.client.runtime;
    let pod = runtime.run_pod_sandbox(traced(run(&sandbox))).await?.into_inner().pod_sandbox_id;
    let reference = config.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
    lab.client.images.pull_image(traced(pull(&reference))).await?;
    let create = CreateContainerRequest {
        pod_sandbox_id: pod.clone(),
        config: Some(config.clone()),
        sandbox_config: Some(sandbox),
    };
    let created = runtime.create_container(traced(create)).await?.into_inner();
    let start = StartContainerRequest { container_id: created.container_id.clone() };
    runtime.start_container(traced(start)).await?;
    Ok((pod, created.container_id))
}

/// The spans of one trace, with their ways from the root.
struct Tree<'a>(BTreeMap<&'a str, &'a Span>);

impl<'a> Tree<'a> {
    fn new(spans: &'a [Span]) -> Self {
        Self(spans.iter().map(|span| (span.id.as_str(), span)).collect())
    }

    /// The names from the RPC down to the span. The parent of the RPC is the client's span.
    fn path(&self, span: &Span) -> String {
        match self.0.get(span.parent.as_str()) {
            Some(parent) => format!("{}/{}", self.path(parent), span.name),
            None => {
                assert_eq!(span.parent, CLIENT, "the parent of {} is missing", span.name);
                span.name.rsplit('/').next().unwrap_or_default().to_owned()
            }
        }
    }

    fn paths(&self) -> Vec<String> {
        self.0.values().map(|span| self.path(span)).collect()
    }

    fn at(&self, path: &str) -> Option<&'a Span> {
        self.0.values().find(|span| self.path(span) == path).copied()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_start_of_a_pod_is_one_trace() -> Result<()> {
    needs!("docker-registry", "busybox");
    let collector = Collector::start().await?;
    let machine = Machine::start_with(setup(&collector.address.to_string(), &[])).await?;
    let image = machine.registry().push("traced", "1", &Image::busybox().build())?;
    let client = machine.client().await?;
    let mut lab = Lab { machine, client, image: image.clone() };
    let config = request::shell("main", &image, "sleep 1000");
    let (pod, container) = start_pod(&mut lab, "traced", &config).await?;
    let is_complete = |spans: &[Span]| {
        spans.iter().any(|span| span.name == "runtime.v1.RuntimeService/StartContainer")
            && spans.iter().any(|span| span.name == "prepare_container")
    };
    let spans = collector.until(is_complete).await?;
    // Neither the requests of the test's other calls nor the work of the server for itself.
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:#?}");
    let tree = Tree::new(&spans);
    let host = &lab.machine.registry().host;
    let get = format!("GET {host}");
    for path in [
        "RunPodSandbox/run_pod/turn",
        "RunPodSandbox/run_pod/monitor",
        "RunPodSandbox/run_pod/open/monitor: open pod",
        "RunPodSandbox/run_pod/network",
        "RunPodSandbox/run_pod/commit",
        &format!("PullImage/pull_image/manifest/{get}"),
        &format!("PullImage/pull_image/config/{get}"),
        &format!("PullImage/pull_image/layers/layer/{get}"),
        "PullImage/pull_image/commit",
        "CreateContainer/create_container/spec",
        "CreateContainer/prepare_container/compile",
        "StartContainer/start_container/monitor/monitor: start",
    ] {
        let span = tree.at(path).ok_or_else(|| format!("{path} is missing: {:#?}", tree.paths()))?;
        assert!(span.start <= span.end && span.error.is_none(), "{span:#?}");
        let parent = tree.0[span.parent.as_str()];
        assert!(parent.start <= span.start, "{span:#?} in {parent:#?}");
        let server = ["crisp", env!("CARGO_PKG_VERSION")].map(str::to_owned).to_vec();
        let found = ["service.name", "service.version"].map(|key| span.resource[key].clone()).to_vec();
        assert_eq!((found, span.resource.contains_key("host.name")), (server, true));
    }
    let attribute = |path: &str, key: &str| tree.at(path).and_then(|span| span.attributes.get(key).cloned());
    for (path, key, value) in [
        ("RunPodSandbox", "rpc.method", "RunPodSandbox"),
        ("RunPodSandbox", "rpc.grpc.status_code", "0"),
        ("RunPodSandbox/run_pod", "sandbox.id", &pod),
        ("RunPodSandbox/run_pod", "k8s.pod.name", "traced"),
        ("PullImage/pull_image", "image.ref", &image),
        ("StartContainer/start_container", "container.id", &container),
        (&format!("PullImage/pull_image/manifest/{get}"), "http.response.status_code", "200"),
        (&format!("PullImage/pull_image/manifest/{get}"), "url.path", "/v2/traced/manifests/1"),
    ] {
        assert_eq!(attribute(path, key).as_deref(), Some(value), "{path}: {key}");
    }
    let kinds = ["RunPodSandbox", "RunPodSandbox/run_pod", "RunPodSandbox/run_pod/open/monitor: open pod"];
    assert_eq!(kinds.map(|path| tree.at(path).map(|span| span.kind)), [Some(2), Some(1), Some(3)]);
    let started = tree.at("StartContainer/start_container/monitor/monitor: start").ok_or("no start")?;
    assert_eq!(started.events, ["the process has started"]);
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_and_failures_are_in_the_trace_and_secrets_are_not() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    needs!("docker-registry", "busybox");
    let _alone = super::cni::ALONE.lock().await;
    let collector = Collector::start().await?;
    let plugins = tempfile::tempdir()?;
    let plugin = plugins.path().join("refuse");
    let script =
        "#!/bin/sh\n[ $CNI_COMMAND != ADD ] || { echo '{\"code\": 11, \"msg\": \"no room\"}'; exit 1; }\n";
    std::fs::write(&plugin, script)?;
    std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755))?;
    let folder = plugins.path().display().to_string();
    let setup = setup(&collector.address.to_string(), &["--cni-bin-dir", &folder]);
    let mut lab = Lab::start_with(Setup { cni: true, ..setup }).await?;
    let network = json!({"cniVersion": "1.0.0", "name": "lan", "plugins": [{"type": "refuse"}]});
    std::fs::write(lab.machine.cni().join("10-lan.conflist"), network.to_string())?;

    let sandbox = request::pod(&lab.machine, "refused");
    lab.client.runtime.run_pod_sandbox(traced(run(&sandbox))).await.expect_err("the plugin refuses");
    for reference in ["ann:hunter2@127.0.0.1:1/a:1", "127.0.0.1:1/a:1"] {
        lab.client.images.pull_image(traced(pull(reference))).await.expect_err("there is none");
    }
    let is_complete = |spans: &[Span]| {
        spans.iter().filter(|span| span.name.ends_with("/PullImage")).count() == 2
            && spans.iter().any(|span| span.name.ends_with("/RunPodSandbox"))
    };
    let spans = collector.until(is_complete).await?;
    let tree = Tree::new(&spans);
    let failed = |path: &str| {
        let span = tree.at(path).unwrap_or_else(|| panic!("{path} is missing: {:#?}", tree.paths()));
        span.error.clone().unwrap_or_else(|| panic!("no error: {span:#?}"))
    };
    for path in [
        "RunPodSandbox/run_pod/network/CNI ADD refuse",
        "RunPodSandbox/run_pod/network",
        "RunPodSandbox/run_pod",
    ] {
        assert!(failed(path).contains("no room"), "{path}: {}", failed(path));
    }
    for path in ["RunPodSandbox/run_pod/network/CNI DEL refuse", "RunPodSandbox/run_pod/undo/network"] {
        assert!(tree.at(path).is_some(), "{path} is missing: {:#?}", tree.paths());
    }
    assert!(failed("PullImage/pull_image").contains("127.0.0.1:1"));
    assert!(
        spans.iter().any(|span| span.attributes.get("image.ref").is_some_and(|r| r == "***@127.0.0.1:1/a:1"))
    );
    assert!(!format!("{spans:?}").contains("hunter2"), "{spans:#?}");
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_sampled_requests_are_traced() -> Result<()> {
    needs!("docker-registry", "busybox");
    let collector = Collector::start().await?;
    let endpoint = collector.address.to_string();
    let lab = Lab::start_with(setup(&endpoint, &[])).await?;
    let mut client = lab.client.clone();
    let version = || k8s_cri::v1::VersionRequest::default();
    client.runtime.version(version()).await?;
    client.runtime.version(with_parent(version(), &format!("00-{TRACE}-{CLIENT}-00"))).await?;
    client.runtime.version(with_parent(version(), &format!("00-{TRACE}-{CLIENT}"))).await?;
    client.runtime.version(traced(version())).await?;
    let spans = collector.until(|spans| !spans.is_empty()).await?;
    assert_eq!((spans.len(), spans[0].trace.as_str()), (1, TRACE), "{spans:#?}");
    lab.close().await?;

    // All, apart from those of a client that does not sample.
    let collector = Collector::start().await?;
    let endpoint = collector.address.to_string();
    let all = setup(&endpoint, &["--tracing-sampling-rate-per-million", "1000000"]);
    let lab = Lab::start_with(all).await?;
    let mut client = lab.client.clone();
    client.runtime.version(with_parent(version(), &format!("00-{TRACE}-{CLIENT}-00"))).await?;
    let roots = |spans: &[Span]| spans.iter().filter(|span| span.parent.is_empty()).count();
    let spans = collector.until(|spans| spans.iter().any(|span| span.name.ends_with("/PullImage"))).await?;
    assert!(roots(&spans) > 0 && spans.iter().all(|span| span.trace != TRACE), "{spans:#?}");
    // What waits in the queue is sent before the end.
    client.runtime.version(traced(version())).await?;
    lab.close().await?;
    assert!(collector.spans().iter().any(|span| span.trace == TRACE), "{:#?}", collector.spans());
    Ok(())
}

/// Starts pods with every request in a trace, while spans reach no collector. Returns the median of the starts.
async fn start_without_collector(endpoint: &str) -> Result<Duration> {
    let host = format!("127.0.0.1:{}", free_port()?);
    let mut lab = Lab::start_with(setup(endpoint, &["--metrics-listen", &host])).await?;
    let config = lab.shell("sleep 1000");
    let mut times = Vec::new();
    for number in 0..10 {
        let begun = Instant::now();
        start_pod(&mut lab, &format!("pod{number}"), &config).await?;
        times.push(begun.elapsed());
    }
    // More spans than the queue holds.
    for _ in 0..3000 {
        lab.client.runtime.version(traced(k8s_cri::v1::VersionRequest::default())).await?;
    }
    let page = String::from_utf8(http::send(&host, "GET", "/metrics", &[], &[])?.body)?;
    let lost = |reason: &str| -> Result<f64> {
        let name = format!("crisp_trace_dropped_spans_total{{reason=\"{reason}\"}} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&name)).ok_or("no metric")?;
        Ok(line.parse()?)
    };
    assert!(lost("queue_full")? + lost("export_failed")? > 500.0, "{page}");
    times.sort();
    let begun = Instant::now();
    lab.machine.stop_server()?;
    assert!(begun.elapsed() < Duration::from_secs(3), "the end took {:?}", begun.elapsed());
    lab.machine.start_server().await?;
    lab.close().await?;
    Ok(times[times.len() / 2])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_down_or_hangs_delays_nothing() -> Result<()> {
    needs!("docker-registry", "busybox");
    // It takes connections, as the kernel does for it, and never reads.
    let hanging = TcpListener::bind("127.0.0.1:0")?;
    let endpoint = hanging.local_addr()?.to_string();
    let with_hanging = start_without_collector(&endpoint).await?;
    let without = start_without_collector(&format!("127.0.0.1:{}", free_port()?)).await?;
    // A request that waited for the collector would take seconds.
    assert!(
        with_hanging < Duration::from_secs(1) && without < Duration::from_secs(1),
        "{with_hanging:?} {without:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn exemplars_lead_from_a_duration_to_its_trace() -> Result<()> {
    needs!("docker-registry", "busybox", "prometheus", "promtool");
    let collector = Collector::start().await?;
    let host = format!("127.0.0.1:{}", free_port()?);
    let setup = setup(&collector.address.to_string(), &["--metrics-listen", &host]);
    let mut lab = Lab::start_with(setup).await?;
    let config = lab.shell("sleep 1000");
    start_pod(&mut lab, "traced", &config).await?;
    let page = |accept: &str| -> Result<String> {
        Ok(String::from_utf8(http::send(&host, "GET", "/metrics", &[("accept", accept)], &[])?.body)?)
    };
    let text = page("text/plain;version=0.0.4")?;
    assert!(!text.contains(TRACE) && !text.contains("# EOF"), "{text}");
    let open = page("application/openmetrics-text;version=1.0.0")?;
    let exemplar = format!(" # {{trace_id=\"{TRACE}\"}} ");
    let with_exemplar = open.lines().filter(|line| line.contains(&exemplar));
    let buckets = with_exemplar.filter(|line| line.starts_with("crisp_rpc_duration_seconds_bucket{")).count();
    assert!(buckets >= 4 && open.ends_with("\n# EOF\n"), "{buckets}: {open}");
    // The same families, by the names of the other format.
    let names = |page: &str| -> Vec<String> {
        let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        types.map(|(name, kind)| format!("{name} {kind}").replace("_total counter", " counter")).collect()
    };
    assert_eq!(names(&open), names(&text));

    let prometheus = Prometheus::start(lab.machine.folder(), &host, None)?;
    let begun = Instant::now();
    let series = "crisp_rpc_duration_seconds_bucket{method=\"RunPodSandbox\",code=\"OK\"}";
    while !prometheus.traces(series).is_ok_and(|traces| traces.iter().any(|trace| trace == TRACE)) {
        assert!(begun.elapsed() < Duration::from_secs(30), "Prometheus has no exemplar: {open}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // It has read the page to its end, all families in it.
    let last = open.lines().rev().find_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" gauge"));
    let last = last.ok_or("no gauge")?;
    assert!(!prometheus.query(last)?.is_empty(), "{last}");
    assert_eq!(prometheus.query("up{job=\"crisp\"}")?, ["1"]);
    lab.close().await
}
