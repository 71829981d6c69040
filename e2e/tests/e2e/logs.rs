//! Logs: the CRI format, rotation, and lines that are written while the server is down.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crisp_e2e::machine::crisp;
use crisp_e2e::scenario::parse_log;
use crisp_e2e::{Lab, Result, Setup, needs, request};
use k8s_cri::v1::{ContainerConfig, ReopenContainerLogRequest};

#[tokio::test(flavor = "multi_thread")]
async fn both_streams_long_lines_and_no_final_newline() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let line = "echo out; echo err >&2; head -c 40000 /dev/zero | tr '\\0' x; echo; printf tail";
    let (_, log) = lab.run("streams", &lab.shell(line)).await?;
    assert_eq!(log.lines().map(str::len).max(), Some(40_000));
    assert!(log.contains("out\n") && log.contains("err\n") && log.ends_with("tail"), "{}", log.len());
    let raw = std::fs::read_to_string(lab.machine.logs().join("streams/main.log"))?;
    let times: Vec<&str> = raw.lines().filter_map(|l| l.split(' ').next()).collect();
    assert!(times.is_sorted(), "times go backwards");
    assert!(raw.lines().any(|l| l.contains(" stderr F err")), "{}", &raw[..200]);
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_followed_over_a_restart_of_the_server() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("followed").await?;
    let line = "i=0; while [ $i -lt 60 ]; do echo $i; i=$((i + 1)); sleep 0.1; done";
    let id = lab.client.launch(&pod, &lab.shell(line), &sandbox).await?;
    let mut command = Command::new(crisp());
    command.args(["logs", "-f", &id]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("CONTAINER_RUNTIME_ENDPOINT", format!("unix://{}", lab.machine.socket().display()));
    let mut follower = command.spawn()?;
    // It follows by then: only that goes on over a restart.
    let mut first = [0; 2];
    follower.stdout.as_mut().ok_or("no output")?.read_exact(&mut first)?;
    assert_eq!(&first, b"0\n");
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        lab.machine.stop_server()?;
        // Longer than the pause between two requests of the follower.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        lab.machine.start_server().await?;
    }
    lab.client = lab.machine.client().await?;
    let output = tokio::task::spawn_blocking(|| follower.wait_with_output()).await??;
    let expected: String = (1..60).map(|i| format!("{i}\n")).collect();
    assert_eq!(String::from_utf8(output.stdout)?, expected);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    lab.close().await
}

/// Without a kubelet the server rotates; it leaves the logs of a kubelet's containers to the kubelet.
#[tokio::test(flavor = "multi_thread")]
async fn large_logs_are_rotated_where_no_kubelet_does_it() -> Result<()> {
    needs!("docker-registry", "busybox");
    let args = ["--container-log-max-size", "20000", "--container-log-max-files", "3"];
    let setup = Setup { args: args.map(str::to_owned).to_vec(), ..Setup::default() };
    let mut lab = Lab::start_with(setup).await?;
    // Some 60 bytes a line in the log; rotated four times at least.
    let line =
        "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i + 1)); [ $((i % 300)) != 0 ] || sleep 0.6; done";
    let of_kubelet = [("io.kubernetes.container.hash".to_owned(), "1".to_owned())];
    let kubelets = ContainerConfig { annotations: of_kubelet.into(), ..lab.shell(line) };
    lab.run("alone", &lab.shell(line)).await?;
    lab.run("kubelets", &kubelets).await?;

    let files = |pod: &str| -> Result<Vec<String>> {
        let folder = std::fs::read_dir(lab.machine.logs().join(pod))?;
        let mut names =
            folder.map(|f| Ok(f?.file_name().to_string_lossy().into_owned())).collect::<Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    };
    assert_eq!(files("kubelets")?, ["main.log"]);
    assert_eq!(files("alone")?, ["main.log", "main.log.1", "main.log.2"]);
    let mut lines = String::new();
    for name in ["main.log.2", "main.log.1", "main.log"] {
        lines += &parse_log(&std::fs::read_to_string(lab.machine.logs().join("alone").join(name))?)?;
    }
    let first: u32 = lines.lines().next().and_then(|l| l.strip_prefix("line ")).ok_or("no line")?.parse()?;
    let expected: String = (first..3000).map(|i| format!("line {i}\n")).collect();
    assert!(first > 0 && lines == expected, "lines are lost or out of order from {first} on");
    let container = lab.machine.crisp(&["logs", "alone/main"])?;
    assert_eq!(String::from_utf8(container.stdout)?, expected);
    lab.close().await
}

const COUNT: u32 = 20_000;

#[tokio::test(flavor = "multi_thread")]
async fn not_a_line_is_lost_while_the_server_is_down() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("down").await?;
    let line = format!("i=0; while [ $i -lt {COUNT} ]; do i=$((i+1)); echo line $i; done");
    let id = lab.client.launch(&pod, &request::shell("main", &lab.image, &line), &sandbox).await?;
    lab.machine.kill_server();
    tokio::time::sleep(Duration::from_millis(500)).await;
    lab.machine.start_server().await?;
    lab.client = lab.machine.client().await?;
    assert_eq!(lab.client.wait(&id).await?.exit_code, 0);
    let log = lab.machine.container_log("down", "main")?;
    let expected: String = (1..=COUNT).map(|i| format!("line {i}\n")).collect();
    assert!(log == expected, "{} of {} bytes", log.len(), expected.len());
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_loses_nothing() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("rotate").await?;
    let line = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo line $i; done; sleep 100";
    let id = lab.client.launch(&pod, &request::shell("main", &lab.image, line), &sandbox).await?;
    let file = lab.machine.logs().join("rotate/main.log");
    let mut all = String::new();
    for round in 0..5 {
        let old = file.with_extension(format!("log.{round}"));
        std::fs::rename(&file, &old)?;
        lab.client
            .runtime
            .reopen_container_log(ReopenContainerLogRequest { container_id: id.clone() })
            .await?;
        assert!(file.exists(), "the new log is there once the call returns");
        all.push_str(&parse_log(&std::fs::read_to_string(&old)?)?);
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    all.push_str(&parse_log(&std::fs::read_to_string(&file)?)?);
    let expected: String = (1..=3000).map(|i| format!("line {i}\n")).collect();
    assert!(all == expected, "{} of {} bytes", all.len(), expected.len());
    lab.close().await
}

/// Two containers of a pod may write to one file.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_two_containers_is_rotated_for_both() -> Result<()> {
    needs!("docker-registry", "busybox");
    let args = ["--container-log-max-size", "20000", "--container-log-max-files", "20"];
    let mut lab =
        Lab::start_with(Setup { args: args.map(str::to_owned).to_vec(), ..Setup::default() }).await?;
    let (sandbox, pod) = lab.pod("shared").await?;
    let mut ids = Vec::new();
    for name in ["left", "right"] {
        let line = format!(
            "i=0; while [ $i -lt 1500 ]; do echo {name} $i; i=$((i + 1)); [ $((i % 300)) != 0 ] || sleep 0.6; done"
        );
        let config = request::shell(name, &lab.image, &line);
        let config = ContainerConfig { log_path: "app.log".into(), ..config };
        ids.push(lab.client.launch(&pod, &config, &sandbox).await?);
    }
    for id in &ids {
        assert_eq!(lab.client.wait(id).await?.exit_code, 0);
    }
    let folder = lab.machine.logs().join("shared");
    let kept = (1..).map(|number| folder.join(format!("app.log.{number}"))).take_while(|file| file.exists());
    let mut files: Vec<_> = kept.collect();
    assert!(files.len() > 1, "it was rotated");
    files.reverse();
    files.push(folder.join("app.log"));
    let mut all = String::new();
    for file in &files {
        all += &parse_log(&std::fs::read_to_string(file)?)?;
    }
    let oldest = std::fs::read_to_string(&files[0])?;
    for name in ["left", "right"] {
        assert!(!oldest.contains(&format!("{name} 1499")), "{name} writes to a renamed file");
        let lines: String =
            all.lines().filter(|line| line.starts_with(name)).map(|l| format!("{l}\n")).collect();
        let expected: String = (0..1500).map(|i| format!("{name} {i}\n")).collect();
        assert!(lines == expected, "{} of {} bytes of {name}", lines.len(), expected.len());
    }
    lab.close().await
}

/// Also when the settings no longer ask for rotations.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_a_dead_server_began_is_finished_by_the_next() -> Result<()> {
    needs!("docker-registry", "busybox");
    let config = tempfile::NamedTempFile::new()?;
    std::fs::write(&config, "container-log-max-size = 10000\n")?;
    let setup = Setup {
        args: vec!["--config".into(), config.path().display().to_string()],
        // The file is renamed, and the container's monitor does not know the new one yet.
        faults: Some("rotate_log/monitor=kill".into()),
        ..Setup::default()
    };
    let mut lab = Lab::start_with(setup).await?;
    let (sandbox, pod) = lab.pod("half").await?;
    let line = "i=0; while [ $i -lt 400 ]; do echo line $i; i=$((i + 1)); done; \
                until [ $i = 480 ]; do echo line $i; i=$((i + 1)); sleep 0.1; done";
    let id = lab.client.launch(&pod, &request::shell("main", &lab.image, line), &sandbox).await?;
    // For the next server.
    std::fs::write(&config, "container-log-max-size = 0\n")?;
    let start = Instant::now();
    lab.client = loop {
        match lab.machine.restart_if_killed().await? {
            Some(client) => break client,
            None => assert!(start.elapsed() < Duration::from_secs(20), "the log is not rotated"),
        }
    };
    let folder = lab.machine.logs().join("half");
    assert_eq!(lab.client.wait(&id).await?.exit_code, 0);
    let last = lab.machine.container_log("half", "main")?;
    assert!(!last.is_empty(), "it still writes to the renamed file");
    let all = parse_log(&std::fs::read_to_string(folder.join("main.log.1"))?)? + &last;
    assert_eq!(all, (0..480).map(|i| format!("line {i}\n")).collect::<String>());
    lab.close().await
}
