//! The server for its operator: reloading, the format of its log, its health.

use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use crisp_e2e::{Image, Lab, Layer, Machine, Result, Setup, needs, request};
use k8s_cri::v1::{ImageSpec, PullImageRequest};
use prost::Message as _;
use rustix::process::{Pid, Signal, kill_process};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

async fn started(config: &std::path::Path, more: &[&str]) -> Result<Machine> {
    let mut args = vec!["--config".to_owned(), config.display().to_string()];
    args.extend(more.iter().map(|&arg| arg.to_owned()));
    Machine::start_with(Setup { args, no_registry: true, ..Setup::default() }).await
}

fn hang_up(machine: &Machine) -> Result<()> {
    let pid = i32::try_from(machine.server_pid())?;
    Ok(kill_process(Pid::from_raw(pid).ok_or("no process")?, Signal::HUP)?)
}

/// Waits for a line with `text` in the log, and returns the first one.
async fn logged(machine: &Machine, text: &str) -> Result<String> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(line) = machine.log().lines().find(|line| line.contains(text)) {
            return Ok(line.to_owned());
        }
        if Instant::now() > deadline {
            return Err(format!("{text:?} is not in the log:\n{}", machine.log()).into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_reloads_what_can_be_and_names_the_rest() -> Result<()> {
    needs!();
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("config.toml");
    std::fs::write(&config, "log-level = 'warn'\n")?;
    let machine = started(&config, &[]).await?;
    assert!(!machine.log().contains(" INFO "), "{}", machine.log());

    // A file that is not a valid configuration changes nothing, and the server continues.
    std::fs::write(&config, "log-lefel = 'info'\n")?;
    hang_up(&machine)?;
    assert!(logged(&machine, "the settings in force stay").await?.contains("ERROR"));
    assert!(machine.log().contains("log-lefel"), "{}", machine.log());

    std::fs::write(&config, "log-level = 'info'\nexec-grace = 3\ncni-timeout = 3\n")?;
    hang_up(&machine)?;
    let line = logged(&machine, "wait for a restart").await?;
    assert!(line.contains("cni-timeout = 3") && !line.contains("log-level"), "{line}");
    assert!(!line.contains("exec-grace"), "{line}");

    std::fs::create_dir(folder.path().join("conf.d"))?;
    std::fs::write(folder.path().join("conf.d/grace.toml"), "cni-timeout = 30\n")?;
    hang_up(&machine)?;
    assert!(logged(&machine, "the configuration is in force").await?.contains(" INFO "));
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_can_be_json_with_fields() -> Result<()> {
    needs!();
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("config.toml");
    std::fs::write(&config, "log-format = 'text'\n")?;
    let machine = started(&config, &["--log-format", "json"]).await?;
    let line = logged(&machine, "\"ready\"").await?;
    for line in machine.log().lines() {
        let event: serde_json::Value = serde_json::from_str(line)?;
        assert!(event["timestamp"].is_string() && event["message"].is_string(), "{line}");
    }
    let ready: serde_json::Value = serde_json::from_str(&line)?;
    assert_eq!((ready["level"].as_str(), ready["pods"].as_u64()), (Some("INFO"), Some(0)));
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_is_in_the_log_and_a_request_sets_its_level() -> Result<()> {
    needs!("docker-registry", "busybox");
    let args = ["--log-format", "json"].map(str::to_owned).to_vec();
    let mut lab = Lab::start_with(Setup { args, ..Setup::default() }).await?;
    let (status, _) = lab.run("main", &lab.shell("exit 3")).await?;
    let line = logged(&lab.machine, "\"ended\"").await?;
    let ended: serde_json::Value = serde_json::from_str(&line)?;
    let (pod, container) = (ended["pod"].as_str().ok_or("no pod")?.to_owned(), status.id);
    assert_eq!(ended["container"], container.as_str(), "{line}");
    assert_eq!((&ended["code"], &ended["reason"]), (&3.into(), &"Error".into()), "{line}");
    for message in ["\"created\"", "\"started\""] {
        assert!(logged(&lab.machine, message).await?.contains(&pod), "{message}");
    }

    let level = |words: &[&str]| lab.machine.crisp(&[&["debug", "log-level"], words].concat());
    assert_eq!(level(&[])?.stdout, b"info\n");
    assert_eq!(level(&["info,crisp=debug"])?.stdout, b"crisp=debug,info\n");
    let refused = String::from_utf8(level(&["loud"])?.stderr)?;
    assert!(refused.contains("is not a log level"), "{refused}");
    logged(&lab.machine, "set by a request").await?;
    lab.close().await
}

/// The log is a pipe whose reader has stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_not_read_holds_nothing_up() -> Result<()> {
    needs!("docker-registry", "busybox");
    let folder = tempfile::tempdir()?;
    let pipe = folder.path().join("log");
    let setup = Setup {
        args: ["--log-format", "text", "--log-level", "trace"].map(str::to_owned).to_vec(),
        before_server: Some(format!("mkfifo {0}; exec 3<>{0} 2>&3", pipe.display())),
        ..Setup::default()
    };
    let mut lab = Lab::start_with(setup).await?;
    let started = Instant::now();
    for number in 0..3 {
        lab.run(&format!("main-{number}"), &lab.shell("true")).await?;
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let reader = std::fs::File::open(&pipe)?;
    assert!(
        rustix::io::ioctl_fionread(&reader)? > 60_000,
        "the log never filled the pipe: the test shows nothing"
    );
    // Also the end of the server does not wait for its last lines.
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_may_use_the_socket() -> Result<()> {
    needs!();
    let machine = started(std::path::Path::new("/dev/null"), &["--listen-group", "4711"]).await?;
    let socket = std::fs::metadata(machine.socket())?;
    assert_eq!((socket.gid(), socket.mode() & 0o7777), (4711, 0o660));
    assert!(machine.crisp(&["version"])?.status.success(), "root may go on");
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_as_grpc_has_it() -> Result<()> {
    needs!();
    let machine = Machine::start_with(Setup { no_registry: true, ..Setup::default() }).await?;
    let mut health = HealthClient::new(machine.client().await?.channel);
    for service in ["", "runtime.v1.RuntimeService", "runtime.v1.ImageService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let status = health.check(request).await?.into_inner().status;
        assert_eq!(status, ServingStatus::Serving as i32, "{service}");
    }
    let unknown = health.check(HealthCheckRequest { service: "other".to_owned() }).await;
    assert_eq!(unknown.unwrap_err().code(), tonic::Code::NotFound);
    machine.close().await
}

/// The client is curl: those of gRPC end such a call themselves, most often before the server's answer comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_outlasts_the_limit_of_its_client_is_deadline_exceeded() -> Result<()> {
    needs!("curl");
    let machine = Machine::start_with(Setup { no_registry: true, ..Setup::default() }).await?;
    // A registry that accepts connections and does not answer.
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    let image = ImageSpec { image: format!("{}/image:1", silent.local_addr()?), ..ImageSpec::default() };
    let message = PullImageRequest { image: Some(image), ..PullImageRequest::default() }.encode_to_vec();
    let body = machine.folder().join("request");
    std::fs::write(&body, [&[0], &u32::try_from(message.len())?.to_be_bytes()[..], &message].concat())?;
    for limit in ["20m", "30000u", "40m"].repeat(10) {
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "10", "--http2-prior-knowledge", "-o", "/dev/null", "-D", "-"])
            .args(["-H", "content-type: application/grpc", "-H", "te: trailers"])
            .args(["-H", &format!("grpc-timeout: {limit}"), "--data-binary"])
            .arg(format!("@{}", body.display()))
            .arg("--unix-socket")
            .arg(machine.socket())
            .arg("http://localhost/runtime.v1.ImageService/PullImage")
            .output()?;
        let headers = String::from_utf8(output.stdout)?;
        let status = headers.lines().find_map(|line| line.strip_prefix("grpc-status: "));
        assert_eq!(
            status.map(str::trim),
            Some("4"),
            "{limit}: {headers}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_umask_of_the_shell_that_started_it_changes_no_mode() -> Result<()> {
    needs!("docker-registry", "busybox");
    let before_server = Some("umask 077".to_owned());
    let mut lab = Lab::start_with(Setup { before_server, ..Setup::default() }).await?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", lab.machine.server_pid()))?;
    assert!(status.lines().any(|line| line == "Umask:\t0022"), "{status}");
    let image = Image::busybox().layer(Layer::new().file("shared/file", 0o644, b"x")).build();
    let image = lab.machine.registry().push("modes", "1", &image)?;
    lab.client.pull(&image).await?;
    // The archive has no entry for this folder.
    let modes = request::shell("main", &image, "stat -c %a /shared /shared/file");
    assert_eq!(lab.output("modes", modes).await?, "755\n644\n");
    lab.close().await
}
