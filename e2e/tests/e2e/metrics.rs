//! The /metrics page.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crisp_e2e::prometheus::Prometheus;
use crisp_e2e::registry::free_port;
use crisp_e2e::{Lab, Result, Setup, http, needs};

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_scrapes_a_clean_page() -> Result<()> {
    needs!("docker-registry", "busybox", "prometheus", "promtool");
    let host = format!("127.0.0.1:{}", free_port()?);
    let mut lab =
        Lab::start_with(Setup { args: vec!["--metrics-listen".into(), host.clone()], ..Default::default() })
            .await?;
    lab.output("one", lab.shell("true")).await?;
    let (sandbox, pod) = lab.pod("two").await?;
    lab.client.launch(&pod, &lab.shell("sleep 1000"), &sandbox).await?;
    let _ = lab.client.pull("127.0.0.1:1/absent:1").await;
    let page = String::from_utf8(http::send(&host, "GET", "/metrics", &[], &[])?.body)?;
    for expected in [
        "crisp_rpc_duration_seconds_count{",
        "method=\"RunPodSandbox\"",
        "crisp_stage_duration_seconds_count{",
        "process_resident_memory_bytes",
        &lab.machine.registry().host,
    ] {
        assert!(page.contains(expected), "{expected} is missing in:\n{page}");
    }
    check(&page)?;
    let of_pods = String::from_utf8(http::send(&host, "GET", "/metrics/cadvisor", &[], &[])?.body)?;
    for expected in [
        "\ncontainer_cpu_usage_seconds_total{container=\"",
        "\ncontainer_network_receive_bytes_total{container=\"\"",
    ] {
        assert!(of_pods.contains(expected), "{expected} is missing in:\n{of_pods}");
    }
    check(&of_pods)?;
    scrape(&lab, &host).await?;
    lab.close().await
}

fn check(page: &str) -> Result<()> {
    use std::io::Write as _;
    // Names of cAdvisor that break the naming rules.
    let against_rules = ["container_memory_failcnt", "container_fs_inodes_total"];
    let page: String = page
        .split_inclusive('\n')
        .filter(|line| !against_rules.iter().any(|name| line.contains(name)))
        .collect();
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    promtool.stdin.take().ok_or("no stdin")?.write_all(page.as_bytes())?;
    let output = promtool.wait_with_output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

async fn scrape(lab: &Lab, host: &str) -> Result<()> {
    let prometheus = Prometheus::start(lab.machine.folder(), host, None)?;
    let start = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let of_server = prometheus.query("crisp_rpc_duration_seconds_count{method=\"RunPodSandbox\"}");
        let of_pods = prometheus.query("container_memory_working_set_bytes{pod=\"two\"}");
        if [of_server, of_pods].into_iter().all(|values| values.is_ok_and(|values| !values.is_empty())) {
            return Ok(());
        }
        assert!(start.elapsed() < Duration::from_secs(30), "Prometheus has no data");
    }
}
