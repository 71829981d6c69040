//! kubectl through a real API server and kubelet to Crisp: all commands with streams.

use std::time::Duration;

use crisp_e2e::kubernetes::{Cluster, Kubectl, Transport};
use crisp_e2e::programs;
use crisp_e2e::terminal::Terminal;
use crisp_e2e::{Image, Machine, Result, needs, websocket};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::Message;

fn manifest(image: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: server
    image: {image}
    command: [sh, -c, "mkdir /www; echo the page > /www/index.html; httpd -p 127.0.0.1:8080 -h /www; n=0; while true; do n=$((n+1)); echo tick $n; sleep 1; done"]
  - name: reader
    image: {image}
    stdin: true
    command: [sh, -c, "while read line; do echo got $line; done; sleep 1000"]
  - name: shell
    image: {image}
    stdin: true
    tty: true
    command: [sh]
"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_has_all_streams_over_both_transports() -> Result<()> {
    needs!("docker-registry", "busybox", "curl", "etcd", "openssl", "setsid", "timeout");
    if !programs::can_build(&Cluster::PROGRAMS) {
        needs!("go");
    }
    let machine = Machine::start().await?;
    let image = machine.registry().push("busybox", "1", &Image::busybox().build())?;
    let cluster = Cluster::start(&machine)?;
    cluster.run("web", &manifest(&image))?;
    for transport in [Transport::Spdy, Transport::WebSocket] {
        let kubectl = cluster.kubectl(transport);
        exec(&kubectl)?;
        exec_on_a_terminal(&kubectl)?;
        attach(&kubectl)?;
        port_forward(&kubectl)?;
        copy(&kubectl, &machine)?;
        logs(&kubectl)?;
        debug(&kubectl, &image, transport)?;
    }
    client_without_half_closes(&cluster).await?;
    let kubectl = cluster.kubectl(Transport::Spdy);
    kubectl.run(&["delete", "pod", "web", "--grace-period=1", "--timeout=30s"])?;
    drop(cluster);
    machine.close().await
}

fn exec(kubectl: &Kubectl) -> Result<()> {
    let words = ["exec", "web", "-c", "server", "--", "sh", "-c", "echo out; echo err >&2; exit 3"];
    let (code, output, errors) = kubectl.outcome(&words, b"")?;
    assert_eq!((code, output.as_str()), (Some(3), "out\n"), "{errors}");
    assert!(errors.starts_with("err\n") && errors.contains("exit code 3"), "{errors}");
    let count =
        kubectl.run_with(&["exec", "-i", "web", "-c", "server", "--", "wc", "-c"], &[b'x'; 3_000_000])?;
    assert_eq!(count.trim(), "3000000");
    let much = ["exec", "web", "-c", "server", "--", "head", "-c", "30000000", "/dev/zero"];
    assert_eq!(kubectl.run(&much)?.len(), 30_000_000);
    let missing = kubectl
        .run(&["exec", "web", "-c", "server", "--", "/no/such"])
        .expect_err("there is no such program")
        .to_string();
    assert!(missing.contains("/no/such"), "{missing}");
    Ok(())
}

fn exec_on_a_terminal(kubectl: &Kubectl) -> Result<()> {
    let words = ["exec", "-it", "web", "-c", "server", "--", "sh", "-c", "stty size; exec sh"];
    let mut terminal = Terminal::run(&kubectl.command(&words), 91, 33)?;
    terminal.until("33 91")?;
    terminal.type_text("echo do''ne\n")?;
    terminal.until("done")?;
    terminal.resize(120, 40)?;
    // The file may still be on its way.
    for _ in 0..50 {
        terminal.type_text("stty size; echo as''ked\n")?;
        terminal.until("asked")?;
        std::thread::sleep(Duration::from_millis(100));
        if terminal.seen().contains("40 120") {
            break;
        }
    }
    assert!(terminal.seen().contains("40 120"), "{}", terminal.seen());
    // ^C must reach the program in the container.
    terminal.interrupt_and_exit(7)?;
    assert_eq!(terminal.end()?, Some(7));
    Ok(())
}

fn attach(kubectl: &Kubectl) -> Result<()> {
    let mut attached = kubectl.start(&["attach", "-i", "web", "-c", "reader"])?;
    attached.write("one line\n")?;
    attached.until("got one line\n")?;
    drop(attached);
    let mut terminal = Terminal::run(&kubectl.command(&["attach", "-it", "web", "-c", "shell"]), 80, 24)?;
    terminal.type_text("echo from the she''ll\n")?;
    terminal.until("from the shell")?;
    drop(terminal);
    // No container has ended with its client.
    let pods = kubectl.run(&["get", "pod", "web", "-o", "jsonpath={.status.containerStatuses[*].ready}"])?;
    assert_eq!(pods, "true true true");
    Ok(())
}

fn port_forward(kubectl: &Kubectl) -> Result<()> {
    let words = ["port-forward", "--address", "127.0.0.1", "pod/web"];
    let mut forward = kubectl.start(&[&words[..], &[":8080"]].concat())?;
    let web = local_port(forward.until("-> 8080\n")?, 8080);
    for _ in 0..20 {
        assert_eq!(get(&web)?, "the page\n");
    }
    // The session of a refused port has served another one. kubectl itself ends it at the first error of any port:
    // portforward.go in client-go closes the connection then.
    let mut refused = kubectl.start(&[&words[..], &[":8080", ":9"]].concat())?;
    let text = refused.until("-> 9\n")?.to_owned();
    let (beside, closed) = (local_port(&text, 8080), local_port(&text, 9));
    assert_eq!(get(&beside)?, "the page\n");
    assert_eq!(get(&closed)?, "");
    refused.until("cannot connect to port 9")?;
    refused.until("lost connection to pod")?;
    assert_ne!(refused.end()?, Some(0));
    // The other session still works.
    assert_eq!(get(&web)?, "the page\n");
    Ok(())
}

/// The port on this machine from which a port of the pod is forwarded.
fn local_port(text: &str, of_pod: u16) -> String {
    let end = format!(" -> {of_pod}");
    let mut ports = text.lines().filter_map(|line| {
        line.strip_prefix("Forwarding from 127.0.0.1:").and_then(|ports| ports.strip_suffix(&end))
    });
    ports.next().unwrap_or_default().to_owned()
}

fn get(port: &str) -> Result<String> {
    let url = format!("http://127.0.0.1:{port}/index.html");
    let output = std::process::Command::new("curl").args(["-s", "--max-time", "10", &url]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn copy(kubectl: &Kubectl, machine: &Machine) -> Result<()> {
    let (here, back) = (machine.folder().join("copied"), machine.folder().join("back"));
    let content: Vec<u8> = (0..5_000_000u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    std::fs::write(&here, &content)?;
    let path = |path: &std::path::Path| path.display().to_string();
    kubectl.run(&["cp", "-c", "server", &path(&here), "web:/tmp/copied"])?;
    kubectl.run(&["cp", "-c", "server", "web:/tmp/copied", &path(&back)])?;
    assert!(std::fs::read(&back)? == content);
    Ok(std::fs::remove_file(back)?)
}

fn logs(kubectl: &Kubectl) -> Result<()> {
    let mut logs = kubectl.start(&["logs", "-f", "--tail=1", "web", "-c", "server"])?;
    let first = logs.until("\n")?.trim().trim_start_matches("tick ").to_owned();
    let first: u32 = first.lines().next().unwrap_or_default().parse()?;
    logs.until(&format!("tick {}\n", first + 3))?;
    Ok(())
}

/// In the PID namespace of another container.
fn debug(kubectl: &Kubectl, image: &str, transport: Transport) -> Result<()> {
    let (image, name) =
        (format!("--image={image}"), format!("-cdebug-{}", format!("{transport:?}").to_lowercase()));
    let line = "read go; ps; echo se''en; exit 4";
    let words = [
        "debug",
        "web",
        "-i",
        "-q",
        &image,
        "--target=server",
        "--profile=general",
        &name,
        "--",
        "sh",
        "-c",
        line,
    ];
    let mut debug = kubectl.start(&words)?;
    debug.write("go\n")?;
    let text = debug.until("seen\n")?;
    assert!(text.contains("httpd"), "{text}");
    // kubectl succeeds when its session has ended well, whatever the exit code of the container.
    assert_eq!(debug.end()?, Some(0));
    let code = format!(
        "jsonpath={{.status.ephemeralContainerStatuses[?(@.name==\"{}\")].state.terminated.exitCode}}",
        &name[2..]
    );
    let begun = std::time::Instant::now();
    loop {
        let seen = kubectl.run(&["get", "pod", "web", "-o", &code])?;
        if !seen.is_empty() || begun.elapsed() > Duration::from_secs(30) {
            assert_eq!(seen, "4", "the exit code of the debugging container");
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The protocol of browsers and most libraries, which both servers pass to Crisp unchanged.
async fn client_without_half_closes(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.kubectl(Transport::WebSocket);
    let mut proxy = kubectl.start(&["proxy", "--port=0", "--disable-filter=true"])?;
    let text = proxy.until("Starting to serve on 127.0.0.1:")?.trim();
    let base = format!("http://{}", text.rsplit(' ').next().unwrap_or_default());
    let path = "api/v1/namespaces/default/pods/web/exec?container=server&stdin=true&stdout=true&stderr=true";
    let command =
        ["sh", "-c", "head -c 5; echo over >&2; exit 6"].map(|word| format!("&command={}", escaped(word)));
    let url = format!("{base}/{path}{}", command.concat());
    let mut socket = websocket::connect(&url, "v4.channel.k8s.io").await?;
    socket.send(Message::binary(b"\0hello".to_vec())).await?;
    let mut channels: [Vec<u8>; 4] = Default::default();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(bytes) = message {
            channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]);
        }
    }
    let [_, stdout, stderr, status] = channels.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert_eq!((stdout.as_str(), stderr.as_str()), ("hello", "over\n"));
    assert!(
        status.contains(r#""reason":"ExitCode","message":"6""#) || status.contains("exit status 6"),
        "{status}"
    );
    Ok(())
}

fn escaped(word: &str) -> String {
    word.bytes().map(|byte| format!("%{byte:02x}")).collect()
}
