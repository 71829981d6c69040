//! The /metrics page.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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
    scrape(&lab, &host).await?;
    lab.close().await
}

fn check(page: &str) -> Result<()> {
    use std::io::Write as _;
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
    let folder = lab.machine.folder().join("prometheus");
    std::fs::create_dir(&folder)?;
    let config = folder.join("prometheus.yml");
    std::fs::write(
        &config,
        format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n- {{job_name: crisp, static_configs: [{{targets: [\"{host}\"]}}]}}\n"
        ),
    )?;
    let listen = format!("127.0.0.1:{}", free_port()?);
    let mut prometheus = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
        .arg(format!("--web.listen-address={listen}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let start = Instant::now();
    let found = loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let answer =
            http::send(&listen, "GET", "/api/v1/query?query=crisp_rpc_duration_seconds_count", &[], &[]);
        let found = answer.is_ok_and(|a| String::from_utf8_lossy(&a.body).contains("RunPodSandbox"));
        if found || start.elapsed() > Duration::from_secs(30) {
            break found;
        }
    };
    prometheus.kill()?;
    prometheus.wait()?;
    assert!(found, "Prometheus has no crisp_rpc_duration_seconds_count");
    Ok(())
}
