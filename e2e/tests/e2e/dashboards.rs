//! The dashboard and the alert rules in the metrics crate's folders `grafana` and `prometheus`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crisp_e2e::prometheus::Prometheus;
use crisp_e2e::registry::free_port;
use crisp_e2e::{Image, Lab, Layer, Result, Setup, needs, request};
use k8s_cri::v1::{
    ImageSpec, LinuxContainerConfig, LinuxContainerResources, RemoveContainerRequest, RemoveImageRequest,
};
use serde_json::Value;

fn of_metrics(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../metrics").join(file)
}

#[test]
fn alerts_fire_when_they_should() -> Result<()> {
    needs!("promtool");
    let tested = Command::new("promtool")
        .args(["test", "rules", "rules.test.yml"])
        .current_dir(of_metrics("prometheus"))
        .output()?;
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stderr));
    let rules = std::fs::read_to_string(of_metrics("prometheus/rules.yml"))?;
    let tests = std::fs::read_to_string(of_metrics("prometheus/rules.test.yml"))?;
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(&format!("alertname: {alert}")), "{alert} has no test");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_and_rule_has_data() -> Result<()> {
    needs!("docker-registry", "busybox", "prometheus", "promtool");
    let host = format!("127.0.0.1:{}", free_port()?);
    let setup = Setup { args: vec!["--metrics-listen".into(), host.clone()], ..Default::default() };
    let mut lab = Lab::start_with(setup).await?;
    let (sandbox, pod) = lab.pod("shown").await?;
    let mut config = lab.shell("while :; do :; done");
    let resources = LinuxContainerResources {
        cpu_quota: 20_000,
        cpu_period: 100_000,
        memory_limit_in_bytes: 64 << 20,
        ..Default::default()
    };
    config.linux = Some(LinuxContainerConfig { resources: Some(resources), ..Default::default() });
    lab.client.launch(&pod, &config, &sandbox).await?;
    let layers = Image::busybox().layer(Layer::new().file("large", 0o644, &vec![7; 1 << 20]));
    let image = lab.machine.registry().push("shown", "1", &layers.build())?;

    let prometheus =
        Prometheus::start(lab.machine.folder(), &host, Some(&of_metrics("prometheus/rules.yml")))?;
    let expressions = expressions()?;
    let start = Instant::now();
    loop {
        work(&mut lab, &image, &pod, &sandbox).await?;
        let missing: Vec<&String> = expressions.iter().filter(|one| !has_data(&prometheus, one)).collect();
        if missing.is_empty() {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "no data for {missing:#?}");
    }
    for alert in alerts(&prometheus)? {
        let (series, _) =
            alert.rsplit_once([' ']).and_then(|(left, _)| left.rsplit_once(' ')).ok_or("no comparison")?;
        assert!(
            series.starts_with("crisp:") && has_data(&prometheus, series),
            "no data for {series}: {alert}"
        );
    }
    drop(prometheus);
    lab.close().await
}

/// Events of a node: pulls, failed starts, requests for missing objects.
async fn work(lab: &mut Lab, image: &str, pod: &str, sandbox: &k8s_cri::v1::PodSandboxConfig) -> Result<()> {
    let spec = ImageSpec { image: image.into(), ..Default::default() };
    lab.client.pull(image).await?;
    lab.client.images.remove_image(RemoveImageRequest { image: Some(spec) }).await?;
    assert!(lab.client.pull("127.0.0.1:1/absent:1").await.is_err());
    assert!(lab.client.status("0000").await.is_err());
    let broken = request::container("broken", &lab.image, &["/absent"]);
    let create = k8s_cri::v1::CreateContainerRequest {
        pod_sandbox_id: pod.into(),
        config: Some(broken),
        sandbox_config: Some(sandbox.clone()),
    };
    let id = lab.client.runtime.create_container(create).await?.into_inner().container_id;
    let start = k8s_cri::v1::StartContainerRequest { container_id: id.clone() };
    assert!(lab.client.runtime.start_container(start).await.is_err());
    lab.client.runtime.remove_container(RemoveContainerRequest { container_id: id }).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    Ok(())
}

/// The expressions of the dashboard, for all nodes and pods, and the recording rules.
fn expressions() -> Result<Vec<String>> {
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(of_metrics("grafana/crisp.json"))?)?;
    let panels = dashboard["panels"].as_array().ok_or("no panels")?;
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut all: Vec<String> = targets.filter_map(|target| target["expr"].as_str()).map(for_all).collect();
    assert!(all.len() > 20, "{all:?}");
    let rules = std::fs::read_to_string(of_metrics("prometheus/rules.yml"))?;
    all.extend(rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).map(str::to_owned));
    Ok(all)
}

fn for_all(expression: &str) -> String {
    let variables = ["$instance", "$namespace", "$pod"];
    let expression = variables.iter().fold(expression.to_owned(), |text, name| text.replace(name, ".*"));
    let expression = expression.replace("$__rate_interval", "1m");
    assert!(!expression.contains('$'), "{expression}");
    expression
}

fn has_data(prometheus: &Prometheus, expression: &str) -> bool {
    prometheus.query(expression).is_ok_and(|values| values.iter().any(|value| value != "NaN"))
}

fn alerts(prometheus: &Prometheus) -> Result<Vec<String>> {
    let rules = prometheus.get("/api/v1/rules?type=alert")?;
    let groups = rules["data"]["groups"].as_array().ok_or("no groups")?;
    let alerts: Vec<String> = groups
        .iter()
        .filter_map(|group| group["rules"].as_array())
        .flatten()
        .filter_map(|rule| rule["query"].as_str().map(str::to_owned))
        .collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    Ok(alerts)
}
