//! The same sessions over each protocol, with processes of a container.

use std::time::Duration;

use crisp_e2e::session::{Channel, Forward, ForwardProtocol, Process, Protocol, Streams};
use crisp_e2e::{Lab, Result, needs};
use k8s_cri::v1::{AttachRequest, ContainerConfig, ExecRequest, PortForwardRequest};

/// All streams of a process without a terminal.
pub const PIPES: Streams = Streams { stdin: true, tty: false };
pub const TERMINAL: Streams = Streams { stdin: true, tty: true };

/// Starts a command in a container.
pub async fn exec(
    lab: &mut Lab,
    container: &str,
    line: &str,
    protocol: Protocol,
    streams: Streams,
) -> Result<Process> {
    Process::open(&exec_url(lab, container, line, streams).await?, protocol, streams)
}

/// The URL of a command.
pub async fn exec_url(lab: &mut Lab, container: &str, line: &str, streams: Streams) -> Result<String> {
    let request = ExecRequest {
        container_id: container.to_owned(),
        cmd: ["sh", "-c", line].map(str::to_owned).to_vec(),
        stdin: streams.stdin,
        stdout: true,
        stderr: !streams.tty,
        tty: streams.tty,
    };
    Ok(lab.client.runtime.exec(request).await?.into_inner().url)
}

pub async fn attach_url(lab: &mut Lab, container: &str, streams: Streams) -> Result<String> {
    let request = AttachRequest {
        container_id: container.to_owned(),
        stdin: streams.stdin,
        stdout: true,
        stderr: !streams.tty,
        tty: streams.tty,
    };
    Ok(lab.client.runtime.attach(request).await?.into_inner().url)
}

pub async fn forward_url(lab: &mut Lab, pod: &str, port: u16) -> Result<String> {
    let request = PortForwardRequest { pod_sandbox_id: pod.to_owned(), port: vec![port.into()] };
    Ok(lab.client.runtime.port_forward(request).await?.into_inner().url)
}

/// Numbered lines, some hundred kilobytes of them.
fn numbers() -> Vec<u8> {
    (1..=50_000).map(|number| format!("{number}\n")).collect::<String>().into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_is_the_same_over_every_protocol() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("exec-protocols").await?;
    let id = lab.client.launch(&pod, &lab.shell("exec sleep 1000"), &sandbox).await?;
    let input = numbers();
    for protocol in Protocol::ALL {
        // Without half closes, the command cannot see the end of its input.
        let copy =
            if protocol.has_half_close() { "cat".to_owned() } else { format!("head -c {}", input.len()) };
        let line = format!("{copy}; echo over >&2; exit 6");
        let mut process = exec(&mut lab, &id, &line, protocol, PIPES).await?;
        for piece in input.chunks(20_000) {
            process.send(Channel::Stdin, piece)?;
        }
        process.until(|process| process.heard(Channel::Stdout).len() >= input.len())?;
        if protocol.has_half_close() {
            assert_eq!(
                process.text(Channel::Stderr),
                "",
                "{protocol:?}: the command runs on before the close"
            );
            process.close_stdin()?;
        }
        assert_eq!(process.exit_code()?, 6, "{protocol:?}");
        assert!(process.heard(Channel::Stdout) == input, "{protocol:?}: other output");
        assert_eq!(process.text(Channel::Stderr), "over\n", "{protocol:?}");

        let mut process = exec(&mut lab, &id, "echo out; echo err >&2", protocol, PIPES).await?;
        assert_eq!(process.exit_code()?, 0, "{protocol:?}");
        assert_eq!(
            (process.text(Channel::Stdout), process.text(Channel::Stderr)),
            ("out\n".into(), "err\n".into())
        );
    }
    lab.close().await
}

/// Waits until the program of a terminal, which prints `size ROWS COLUMNS end` for each line of input, sees this size:
/// it may arrive behind the line.
fn sees_size(process: &mut Process, size: Option<(u16, u16)>) -> Result<()> {
    // Of a terminal that has never got a size, busybox prints none.
    let size = size.map_or(String::new(), |(columns, rows)| format!("{rows} {columns} "));
    let expected = format!("size {size}end");
    for _ in 0..100 {
        let before = process.heard(Channel::Stdout).len();
        process.send(Channel::Stdin, b"\r")?;
        process.until(|process| process.text(Channel::Stdout)[before..].contains(" end"))?;
        if process.text(Channel::Stdout)[before..].contains(&expected) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(format!("no {expected:?} in {:?}", process.text(Channel::Stdout)).into())
}

const SIZES: &str = "while read x; do echo size $(stty size) end; done";

/// With a protocol that has no sizes, a terminal keeps the size that it had.
#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_of_exec_and_attach_has_the_clients_size_over_every_protocol() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("tty-protocols").await?;
    let config = ContainerConfig { stdin: true, tty: true, ..lab.shell(SIZES) };
    let id = lab.client.launch(&pod, &config, &sandbox).await?;
    let mut size = None;
    for (number, protocol) in (0..).zip(Protocol::ALL) {
        let resize = |process: &mut Process, new: (u16, u16), size: &mut Option<(u16, u16)>| -> Result<()> {
            if protocol.has_sizes() {
                process.resize(new.0, new.1)?;
                *size = Some(new);
            }
            sees_size(process, *size).map_err(|error| format!("{protocol:?}: {error}").into())
        };
        let mut process = Process::open(&attach_url(&mut lab, &id, TERMINAL).await?, protocol, TERMINAL)?;
        resize(&mut process, (101 + number, 31 + number), &mut size)?;
        resize(&mut process, (201 + number, 61 + number), &mut size)?;
        drop(process);
        let mut process = exec(&mut lab, &id, &format!("{SIZES}; exit 4"), protocol, TERMINAL).await?;
        resize(&mut process, (111 + number, 41 + number), &mut None)?;
        process.send(Channel::Stdin, b"\x04")?;
        assert_eq!(process.exit_code()?, 4, "{protocol:?}");
    }
    lab.close().await
}

/// The container's own input ends with the input of the one client that it may have.
#[tokio::test(flavor = "multi_thread")]
async fn the_input_of_an_attached_client_ends_over_every_protocol_with_half_closes() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("attach-protocols").await?;
    let protocols = Protocol::ALL.into_iter().filter(|protocol| protocol.has_half_close());
    for (number, protocol) in protocols.enumerate() {
        let name = format!("reader-{number}");
        let config = ContainerConfig {
            stdin: true,
            stdin_once: true,
            ..crisp_e2e::request::shell(&name, &lab.image, "cat; echo over >&2; exit 5")
        };
        let id = lab.client.launch(&pod, &config, &sandbox).await?;
        let mut process = Process::open(&attach_url(&mut lab, &id, PIPES).await?, protocol, PIPES)?;
        let input = numbers();
        for piece in input.chunks(20_000) {
            process.send(Channel::Stdin, piece)?;
        }
        process.until(|process| process.heard(Channel::Stdout).len() >= input.len())?;
        process.close_stdin()?;
        // The status of an attach is about the session.
        assert_eq!(process.exit_code()?, 0, "{protocol:?}");
        assert_eq!(lab.client.wait(&id).await?.exit_code, 5, "{protocol:?}");
        assert!(process.heard(Channel::Stdout) == input, "{protocol:?}: other output");
        assert_eq!(process.text(Channel::Stderr), "over\n", "{protocol:?}");
    }
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_forwarded_over_every_protocol() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("forward-protocols").await?;
    let line = "mkdir /w; seq 50000 > /w/numbers; httpd -p 127.0.0.1:8080 -h /w; exec nc -ll -p 8081 -e cat";
    let id = lab.client.launch(&pod, &lab.shell(line), &sandbox).await?;
    for port in [8080, 8081] {
        lab.client.until(&id, &format!("netstat -ltn | grep -q ':{port} '")).await?;
    }
    let numbers = numbers();
    for protocol in ForwardProtocol::ALL {
        let mut web = Forward::open(&forward_url(&mut lab, &pod, 8080).await?, protocol, 8080)?;
        web.send(b"GET /numbers HTTP/1.0\r\n\r\n")?;
        web.until(|web| web.data().ends_with(&numbers))?;
        if protocol.has_half_close() {
            web.close()?;
            web.to_end()?;
        }
        assert!(web.data().starts_with(b"HTTP/1.") && web.data().ends_with(&numbers), "{protocol:?}");
        assert_eq!(web.error(), "", "{protocol:?}");

        let mut echo = Forward::open(&forward_url(&mut lab, &pod, 8081).await?, protocol, 8081)?;
        for piece in numbers.chunks(20_000) {
            echo.send(piece)?;
        }
        echo.until(|echo| echo.data().len() >= numbers.len())?;
        if protocol.has_half_close() {
            echo.close()?;
            echo.to_end()?;
        }
        assert!(echo.data() == numbers && echo.error().is_empty(), "{protocol:?}: {}", echo.error());

        let mut closed = Forward::open(&forward_url(&mut lab, &pod, 9).await?, protocol, 9)?;
        closed.to_end()?;
        assert!(
            closed.data().is_empty() && closed.error().contains("port 9"),
            "{protocol:?}: {}",
            closed.error()
        );
    }
    lab.close().await
}
