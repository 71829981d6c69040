//! The /metrics page.

use std::path::Path;
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
    until_scraped(&Prometheus::start(lab.machine.folder(), host, None)?).await
}

async fn until_scraped(prometheus: &Prometheus) -> Result<()> {
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

/// An authority, and certificates of it for the server (127.0.0.1) and a client.
fn certificates(folder: &Path) -> Result<()> {
    let script = r#"
        openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=authority -keyout ca.key -out ca.crt -days 2 2>>log
        for name in server client; do
            openssl req -newkey rsa:2048 -nodes -subj "/CN=$name" -keyout $name.key -out $name.csr 2>>log
            openssl x509 -req -in $name.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out $name.crt \
                -extfile <(echo subjectAltName=IP:127.0.0.1) 2>>log
        done"#;
    let done = Command::new("bash").args(["-euc", script]).current_dir(folder).status()?;
    assert!(done.success(), "{}", std::fs::read_to_string(folder.join("log"))?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_clients_with_a_certificate_and_the_token_scrape() -> Result<()> {
    needs!("docker-registry", "busybox", "curl", "openssl", "prometheus");
    let folder = tempfile::tempdir()?;
    certificates(folder.path())?;
    std::fs::write(folder.path().join("token"), "not for all\n")?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let host = format!("127.0.0.1:{}", free_port()?);
    let args = [
        ("--metrics-listen", host.clone()),
        ("--metrics-cert", path("server.crt")),
        ("--metrics-key", path("server.key")),
        ("--metrics-client-ca", path("ca.crt")),
        ("--metrics-token-file", path("token")),
    ];
    let args = args.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
    let mut lab = Lab::start_with(Setup { args, ..Default::default() }).await?;
    let (sandbox, pod) = lab.pod("two").await?;
    lab.client.launch(&pod, &lab.shell("sleep 1000"), &sandbox).await?;

    let curl = |arguments: &[&str]| -> Result<String> {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", &path("ca.crt")]);
        let output = curl.args(arguments).arg(format!("https://{host}/metrics")).output()?;
        Ok(String::from_utf8(output.stdout)?)
    };
    let (certificate, key) = (path("client.crt"), path("client.key"));
    let shown = ["--cert", &certificate, "--key", &key];
    assert_eq!(curl(&[])?, "000", "without a certificate");
    assert_eq!(curl(&shown)?, "401", "without the token");
    assert_eq!(curl(&[&shown[..], &["-H", "Authorization: Bearer not for all"]].concat())?, "200");

    let options = format!(
        "scheme: https, tls_config: {{ca_file: {}, cert_file: {certificate}, key_file: {key}}}, \
         authorization: {{credentials_file: {}}}, ",
        path("ca.crt"),
        path("token")
    );
    until_scraped(&Prometheus::start_with(lab.machine.folder(), &host, None, &options)?).await?;
    lab.close().await
}
