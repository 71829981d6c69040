//! The commands to run, stop and inspect containers.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crisp_e2e::machine::crisp;
use crisp_e2e::{Image, Lab, Layer, Result, needs, request};
use serde_json::{Value, json};

/// The output of a command that must succeed.
fn output(lab: &Lab, args: &[&str]) -> Result<String> {
    let output = lab.machine.crisp(args)?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    Err(format!("{args:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// The error of a command that must fail.
fn refusal(lab: &Lab, args: &[&str]) -> Result<String> {
    let output = lab.machine.crisp(args)?;
    assert!(!output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
    Ok(String::from_utf8(output.stderr)?)
}

/// Runs a command until `is_so` is true for its output.
async fn until(lab: &Lab, args: &[&str], is_so: impl Fn(&str) -> bool) -> Result<String> {
    let begun = Instant::now();
    loop {
        let last = output(lab, args);
        match &last {
            Ok(text) if is_so(text) => return last,
            _ if begun.elapsed() > Duration::from_secs(15) => {
                return Err(format!("{args:?}: {last:?}").into());
            }
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_has_ended_is_started_once_more_with_what_it_wrote() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("again").await?;
    let line = "echo run >> /runs; echo out; cat /leave && exit 7; while :; do :; done";
    let id = lab.client.launch(&pod, &request::shell("job", &lab.image, line), &sandbox).await?;
    until(&lab, &["exec", "job", "cat", "/runs"], |text| text == "run\n").await?;
    assert_eq!(output(&lab, &["restart", "-t", "0", "job"])?, "job\n");
    until(&lab, &["exec", "job", "cat", "/runs"], |text| text == "run\nrun\n").await?;
    let ps = output(&lab, &["ps", "--no-trunc", "--format", "{{.ID}} {{.State}}"])?;
    assert_eq!(ps, format!("{id} running\n"), "the same container");
    // The counters of its new cgroup are read.
    until(&lab, &["stats", "--format", "{{.CPUPerc}}"], |text| {
        text.starts_with(|c: char| ('1'..='9').contains(&c))
    })
    .await?;

    output(&lab, &["exec", "job", "touch", "/leave"])?;
    output(&lab, &["kill", "job"])?;
    assert_eq!(output(&lab, &["wait", "job"])?, "137\n");
    let started = lab.machine.crisp(&["start", "--attach", "job"])?;
    assert_eq!((started.status.code(), String::from_utf8(started.stdout)?), (Some(7), "out\n".to_owned()));
    assert_eq!(output(&lab, &["wait", "job"])?, "7\n");
    assert_eq!(output(&lab, &["logs", "job"])?, "out\n".repeat(3));

    // A new server learns of its exit, and starts it too.
    lab.machine.kill_server();
    lab.machine.start_server().await?;
    lab.client = lab.machine.client().await?;
    assert_eq!(output(&lab, &["wait", "job"])?, "7\n");
    assert_eq!(lab.machine.crisp(&["start", "--attach", "job"])?.status.code(), Some(7));

    output(&lab, &["stop", "pod/again"])?;
    assert!(refusal(&lab, &["start", "job"])?.contains("pod"), "its pod has ended");
    assert!(refusal(&lab, &["start", "pod/again"])?.contains("it is a pod"));
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_supervisor_starts_is_left_to_it() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("kept").await?;
    let mut config = request::shell("job", &lab.image, "exit 0");
    config.annotations.insert("io.kubernetes.container.restartCount".into(), "0".into());
    let id = lab.client.launch(&pod, &config, &sandbox).await?;
    lab.client.wait(&id).await?;
    assert!(refusal(&lab, &["start", "job"])?.contains("restartPolicy"));
    // A container is not started next to a newer one of the same name, either.
    let mut older = request::shell("other", &lab.image, "exit 0");
    let id = lab.client.launch(&pod, &older, &sandbox).await?;
    lab.client.wait(&id).await?;
    older.metadata.as_mut().expect("metadata").attempt = 1;
    lab.client.launch(&pod, &older, &sandbox).await?;
    assert!(refusal(&lab, &["start", &id])?.contains("attempt 1"));
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_container_stands_still_until_it_is_unpaused_or_stopped() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("still").await?;
    let line = "trap 'exit 9' TERM; n=0; while :; do n=$((n+1)); echo $n; sleep 0.02; done";
    lab.client.launch(&pod, &request::shell("count", &lab.image, line), &sandbox).await?;
    let lines = |lab: &Lab| Ok::<_, crisp_e2e::Error>(output(lab, &["logs", "count"])?.lines().count());
    until(&lab, &["logs", "count"], |text| text.lines().count() > 2).await?;
    assert_eq!(output(&lab, &["pause", "count"])?, "count\n");
    let before = lines(&lab)?;
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(lines(&lab)?, before);
    assert!(output(&lab, &["ps"])?.contains("(Paused)"));
    assert!(refusal(&lab, &["pause", "count"])?.contains("is paused"));
    assert!(refusal(&lab, &["exec", "count", "true"])?.contains("is paused"));

    lab.machine.kill_server();
    lab.machine.start_server().await?;
    lab.client = lab.machine.client().await?;
    assert_eq!(output(&lab, &["ps", "--filter", "status=paused", "--format", "{{.Names}}"])?, "count\n");
    assert_eq!(lines(&lab)?, before);
    assert_eq!(output(&lab, &["unpause", "pod/still"])?, "pod/still\n");
    until(&lab, &["logs", "count"], |text| text.lines().count() > before + 2).await?;
    assert!(refusal(&lab, &["unpause", "count"])?.contains("is not paused"));

    // A paused container handles the stop signal and is not killed.
    output(&lab, &["pause", "count"])?;
    let begun = Instant::now();
    output(&lab, &["stop", "count"])?;
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_eq!(output(&lab, &["wait", "count"])?, "9\n");
    assert!(refusal(&lab, &["pause", "count"])?.contains("has exited"));
    // It can also be removed while it is paused.
    output(&lab, &["start", "count"])?;
    output(&lab, &["pause", "count"])?;
    output(&lab, &["rm", "-f", "-v", "count"])?;
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_are_sent_by_name_and_number() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("signals").await?;
    let line = "trap 'echo usr1' USR1; trap 'echo hup' HUP; echo ready; while :; do sleep 0.05; done";
    let id = lab.client.launch(&pod, &request::shell("main", &lab.image, line), &sandbox).await?;
    until(&lab, &["logs", "main"], |text| text == "ready\n").await?;
    output(&lab, &["kill", "-s", "SIGUSR1", "main"])?;
    until(&lab, &["logs", "main"], |text| text == "ready\nusr1\n").await?;
    output(&lab, &["kill", "--signal", "1", "main"])?;
    until(&lab, &["logs", "main"], |text| text == "ready\nusr1\nhup\n").await?;
    assert!(refusal(&lab, &["kill", "-s", "NOPE", "main"])?.contains("NOPE"));
    output(&lab, &["kill", "main"])?;
    assert_eq!(lab.client.wait(&id).await?.exit_code, 137);
    assert!(refusal(&lab, &["kill", "main"])?.contains("has exited"));
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_and_printed_as_programs_need_them() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("list").await?;
    let mut config = request::shell("web", &lab.image, "sleep 1000");
    config.labels.insert("app".into(), "shop".into());
    let web = lab.client.launch(&pod, &config, &sandbox).await?;
    let job = lab.client.launch(&pod, &request::shell("job", &lab.image, "exit 3"), &sandbox).await?;
    lab.client.wait(&job).await?;
    let new = lab.client.create(&pod, &request::shell("new", &lab.image, "true"), &sandbox).await?;
    let names = |args: &[&str]| {
        let all = [&["ps", "--format", "{{.Names}}"], args].concat();
        Ok::<_, crisp_e2e::Error>(output(&lab, &all)?.lines().collect::<Vec<_>>().join(" "))
    };
    for (args, expected) in [
        (&[][..], "web"),
        (&["-a"], "new job web"),
        (&["-l"], "new"),
        (&["-n", "2"], "new job"),
        (&["--filter", "status=exited"], "job"),
        (&["--filter", "status=created", "--filter", "status=exited"], "new job"),
        (&["-a", "--filter", "exited=3"], "job"),
        (&["-a", "--filter", "exited=4"], ""),
        (&["-a", "--filter", "label=app"], "web"),
        (&["-a", "--filter", "label=app=other"], ""),
        (&["-a", "--filter", "name=^w"], "web"),
        (&["-a", "--filter", &format!("id={}", &job[..12])], "job"),
        (&["-a", "--filter", "ancestor=busybox"], "new job web"),
        (&["-a", "--filter", "ancestor=other"], ""),
        (&["-a", "--filter", "pod=list", "--filter", "since=job"], "new"),
        (&["-a", "--filter", "before=job"], "web"),
    ] {
        assert_eq!(names(args)?, expected, "{args:?}");
    }
    assert!(refusal(&lab, &["ps", "--filter", "colour=red"])?.contains("ancestor"));
    assert!(refusal(&lab, &["ps", "--format", "{{.Colour}}"])?.contains("Names"));

    assert_eq!(output(&lab, &["ps", "-aq", "--no-trunc"])?, format!("{new}\n{job}\n{web}\n"));
    let table = output(&lab, &["ps", "-a", "-s"])?;
    for part in
        ["CONTAINER ID", "COMMAND", "Exited (3)", "Up ", "Created", "\"/bin/sh -c sleep 10…\"", "virtual"]
    {
        assert!(table.contains(part), "{part}: {table}");
    }
    let table = output(&lab, &["ps", "--format", "table {{.ID}}\\t{{.RunningFor}}"])?;
    assert!(table.starts_with("ID") && table.contains("RUNNING FOR"), "{table}");
    let line: Value = serde_json::from_str(&output(&lab, &["ps", "--format", "json"])?)?;
    assert_eq!((&line["Names"], &line["State"]), (&json!("web"), &json!("running")));
    assert!(output(&lab, &["ps", "-o", "yaml"])?.starts_with("containers:\n- "));
    assert!(output(&lab, &["images", "-o", "yaml"])?.starts_with("images:\n- "));
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn templates_have_the_fields_that_people_know() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("look").await?;
    let mut config = request::shell("web", &lab.image, "sleep 1000");
    config.labels.insert("app".into(), "shop".into());
    lab.client.launch(&pod, &config, &sandbox).await?;
    let made = |template: &str, name: &str| {
        Ok::<_, crisp_e2e::Error>(
            output(&lab, &["inspect", "--format", template, name])?.trim_end().to_owned(),
        )
    };
    assert_eq!(made("{{.State.Status}} {{.State.Running}} {{.State.ExitCode}}", "web")?, "running true 0");
    assert_eq!(
        made("{{index .Config.Labels \"app\"}} {{json .Config.Cmd}}", "web")?,
        r#"shop ["/bin/sh","-c","sleep 1000"]"#
    );
    let pid = made("{{.State.Pid}}", "web")?;
    assert!(std::fs::read_to_string(format!("/proc/{pid}/cmdline"))?.contains("1000"));
    let address = made("{{.NetworkSettings.IPAddress}}", "web")?;
    assert!(address.starts_with("10.") && made("{{.NetworkSettings.IPAddress}}", "pod/look")? == address);
    assert_eq!(
        made("{{.Architecture}} {{.Os}}", &lab.image)?,
        format!("{} linux", crisp_e2e::image::host_architecture())
    );
    assert!(refusal(&lab, &["inspect", "-f", "{{.State.Colour}}", "web"])?.contains("ExitCode"));

    let top: Value = serde_json::from_str(&output(&lab, &["top", "-o", "json", "web"])?)?;
    let first = &top["processes"][0];
    assert_eq!((first["pid"].to_string(), &first["uid"]), (pid, &json!(0)));
    assert!(output(&lab, &["top", "web"])?.contains("sleep 1000"));
    let all = output(&lab, &["top"])?;
    assert!(all.starts_with("1 containers, 1 processes, CPU ") && all.contains("sleep 1000"), "{all}");
    let stats = output(&lab, &["stats", "--no-stream", "web"])?;
    assert!(stats.contains("MEM USAGE / LIMIT") && stats.contains("look"), "{stats}");
    let version: Value = serde_json::from_str(&output(&lab, &["version", "-o", "json"])?)?;
    assert_eq!(version["Server"]["Name"], "crisp");
    assert!(refusal(&lab, &["rename", "web", "shop"])?.contains("part of what it was created with"));
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_the_files_are_listed() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let files = Layer::new()
        .folder("data/", 0o755)
        .file("data/kept", 0o644, b"k")
        .file("data/changed", 0o644, b"c")
        .file("data/gone", 0o644, b"g")
        .folder("data/emptied/", 0o755)
        .file("data/emptied/one", 0o644, b"1")
        .folder("whole/", 0o755)
        .file("whole/x", 0o644, b"x");
    let image = lab.machine.registry().push("files", "1", &Image::busybox().layer(files).build())?;
    lab.client.pull(&image).await?;
    let (sandbox, pod) = lab.pod("diff").await?;
    let line = "echo more >> /data/changed; rm /data/gone; rm -r /data/emptied; mkdir /data/emptied; echo 2 > /data/emptied/two; rm -r /whole; echo n > /new; mkdir /dir; echo f > /dir/f; chmod 700 /root; ln -s /x /etc/link; sleep 1000";
    lab.client.launch(&pod, &request::shell("main", &image, line), &sandbox).await?;
    let expected = "\
A /dir
A /dir/f
C /etc
A /etc/link
C /data
C /data/changed
C /data/emptied
D /data/emptied/one
A /data/emptied/two
D /data/gone
A /new
D /whole
";
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    until(&lab, &["diff", "main"], |text| text.contains("/etc/link")).await?;
    assert_eq!(sorted(&output(&lab, &["diff", "main"])?), sorted(expected));
    // A container that has ended works too.
    output(&lab, &["kill", "main"])?;
    output(&lab, &["wait", "main"])?;
    assert_eq!(sorted(&output(&lab, &["diff", "main"])?), sorted(expected));
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_while_a_container_runs_and_events_say_what_happens() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let socket = format!("unix://{}", lab.machine.socket().display());
    // The environment variable of crictl also selects the server.
    let mut events = Command::new(crisp());
    events.env("CONTAINER_RUNTIME_ENDPOINT", &socket);
    events.args(["events", "--filter", "type=container", "--format", "{{.Action}} {{.Name}} {{.ExitCode}}"]);
    let mut events = events.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (sandbox, pod) = lab.pod("limits").await?;
    let id = lab.client.launch(&pod, &request::shell("main", &lab.image, "sleep 1000"), &sandbox).await?;
    output(&lab, &["update", "--memory", "64m", "--cpus", "0.5", "--cpu-shares", "512", "main"])?;
    let limits = "{{.HostConfig.Memory}} {{.HostConfig.CpuQuota}} {{.HostConfig.CpuShares}}";
    assert_eq!(output(&lab, &["inspect", "-f", limits, "main"])?, "67108864 50000 512\n");
    let usage = output(&lab, &["stats", "--format", "{{.MemUsage}}"])?;
    assert!(usage.contains("/ 67.1MB"), "{usage}");
    assert!(refusal(&lab, &["update", "main"])?.contains("nothing to change"));
    assert!(refusal(&lab, &["update", "--memory", "many", "main"])?.contains("512m"));
    output(&lab, &["kill", "main"])?;
    lab.client.wait(&id).await?;
    output(&lab, &["rm", "main"])?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    events.kill()?;
    let text = String::from_utf8(events.wait_with_output()?.stdout)?;
    assert_eq!(
        text,
        "create main <no value>\nstart main <no value>\ndie main 137\ndestroy main <no value>\n"
    );

    let past = lab.client.launch(&pod, &request::shell("past", &lab.image, "exit 4"), &sandbox).await?;
    lab.client.wait(&past).await?;
    let args =
        ["events", "--since", "1m", "--until", "0s", "--filter", "container=past", "--format", "{{.Action}}"];
    assert_eq!(output(&lab, &args)?, "create\nstart\ndie\n");
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_server_is_explained_and_shells_are_helped() -> Result<()> {
    needs!();
    let run =
        |args: &[&str]| Command::new(crisp()).args(args).env("CRI_CONFIG_FILE", "/nonexistent").output();
    let refused = run(&["ps", "--listen", "unix:///nonexistent/crisp.sock"])?;
    let errors = String::from_utf8(refused.stderr)?;
    assert!(!refused.status.success() && errors.contains("crisp serve --network built-in"), "{errors}");
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("crictl.yaml");
    std::fs::write(&file, "runtime-endpoint: unix:///nonexistent/from-crictl.sock\n")?;
    let refused = Command::new(crisp()).arg("ps").env("CRI_CONFIG_FILE", &file).output()?;
    assert!(String::from_utf8(refused.stderr)?.contains("from-crictl.sock"));
    for (shell, word) in [("bash", "complete -F"), ("zsh", "#compdef crisp"), ("fish", "complete -c crisp")] {
        let script = run(&["completion", shell])?;
        assert!(String::from_utf8(script.stdout)?.contains(word), "{shell}");
    }
    run(&["man", "--folder", &folder.path().display().to_string()])?;
    let page = std::fs::read_to_string(folder.path().join("crisp-ps.1"))?;
    assert!(page.contains(".TH") && page.contains("ancestor"), "{page}");
    let help = String::from_utf8(run(&["ps", "--help"])?.stdout)?;
    assert!(help.contains("Examples:") && help.contains("status=exited"), "{help}");
    Ok(())
}
