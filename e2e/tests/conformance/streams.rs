//! Exec, Attach and PortForward: URLs of streams, by WebSocket and SPDY.

use std::time::Duration;

use crisp_e2e::websocket::{self, WebSocket};
use crisp_e2e::{Result, spdy};
use futures_util::{SinkExt as _, StreamExt as _};
use k8s_cri::v1::{AttachRequest, ExecRequest, PortForwardRequest};
use tokio_tungstenite::tungstenite::Message;
use tonic::Code;

use crate::cri::{Cri, unknown};

promises! {
    exec_streams_output_and_errors: Cri, ["Exec", "ExecRequest.container_id", "ExecRequest.cmd", "ExecRequest.stdout",
        "ExecRequest.stderr", "ExecResponse.url"],
        "The URL of Exec streams the command's output and errors apart, and then its success";
    exec_streams_an_exit_code: Kubernetes, ["Exec"],
        "The stream of a command that fails ends with its exit code in a Status of Kubernetes";
    exec_streams_input: Cri, ["ExecRequest.stdin"],
        "What is sent to the stream is the command's input";
    exec_has_a_terminal: Cri, ["ExecRequest.tty"],
        "A command with a tty has a terminal, of the size that the client sends";
    exec_speaks_spdy: Kubernetes, ["Exec"],
        "The stream is served by SPDY, which kubelets and older clients speak";
    exec_without_streams_is_refused: Cri, ["Exec"],
        "Exec with none of stdin, stdout and stderr is refused";
    exec_with_a_terminal_and_errors_is_refused: Cri, ["ExecRequest.stderr"],
        "Exec with a tty and stderr is refused";
    exec_in_no_container_is_refused: Cri, ["Exec"],
        "Exec in a container that does not run, or does not exist, is refused by the call";
    a_streams_url_is_good_once: Kubernetes, ["ExecResponse.url"],
        "A URL serves one stream and a second use is refused";
    attach_streams_the_output: Cri, ["Attach", "AttachRequest.container_id", "AttachRequest.stdout",
        "AttachRequest.stderr", "AttachResponse.url"],
        "The URL of Attach streams what the container's command prints from then on";
    attach_streams_input: Cri, ["AttachRequest.stdin", "ContainerConfig.stdin"],
        "What is sent to the stream is the input of the container's command";
    stdin_once_closes_with_the_first_client: Kubernetes, ["ContainerConfig.stdin_once"],
        "With stdin_once the command's input ends when the first attached client leaves";
    attach_has_the_containers_terminal: Cri, ["AttachRequest.tty"],
        "Attach to a container with a tty is a terminal of the size that the client sends";
    attach_without_streams_is_refused: Cri, ["Attach"],
        "Attach with none of stdin, stdout and stderr is refused";
    attach_to_no_container_is_refused: Cri, ["Attach"],
        "Attach to a container that does not run, or does not exist, is refused by the call";
    port_forward_reaches_the_pod: Cri, ["PortForward", "PortForwardRequest.pod_sandbox_id", "PortForwardRequest.port",
        "PortForwardResponse.url"],
        "The URL of PortForward leads to a port of the pod's loopback address";
    port_forward_to_a_stopped_pod_is_refused: Cri, ["PortForward"],
        "PortForward to a pod that is not ready, or does not exist, is refused by the call";
}

/// The channels of the protocol.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// A session that takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(20);

/// The data of a stream, by channel.
#[derive(Default)]
struct Heard([Vec<u8>; 5]);

impl Heard {
    fn text(&self, channel: u8) -> String {
        String::from_utf8_lossy(&self.0[usize::from(channel)]).into_owned()
    }

    /// Receives one message. Returns false when the server has closed the stream.
    async fn more(&mut self, socket: &mut WebSocket) -> Result<bool> {
        match tokio::time::timeout(LIMIT, socket.next()).await? {
            Some(Ok(Message::Binary(data))) => {
                let (channel, data) = data.split_first().ok_or("a message without a channel")?;
                self.0[usize::from(*channel)].extend_from_slice(data);
                Ok(true)
            }
            Some(Ok(Message::Close(_)) | Err(_)) | None => Ok(false),
            Some(Ok(_)) => Ok(true),
        }
    }

    async fn until(&mut self, socket: &mut WebSocket, channel: u8, words: &str) -> Result<()> {
        while !self.text(channel).contains(words) {
            if !self.more(socket).await? {
                return Err(format!("the stream ended without {words:?}: {:?}", self.text(channel)).into());
            }
        }
        Ok(())
    }

    async fn to_the_end(socket: &mut WebSocket) -> Result<Self> {
        let mut heard = Self::default();
        while heard.more(socket).await? {}
        Ok(heard)
    }
}

async fn send(socket: &mut WebSocket, channel: u8, data: &[u8]) -> Result<()> {
    Ok(socket.send(Message::binary([&[channel], data].concat())).await?)
}

fn exec_request(container: &str, line: &str) -> ExecRequest {
    ExecRequest {
        container_id: container.into(),
        cmd: ["sh", "-c", line].map(str::to_owned).to_vec(),
        stdout: true,
        ..Default::default()
    }
}

async fn exec(cri: &mut Cri, request: ExecRequest) -> Result<WebSocket> {
    let url = cri.client.runtime.exec(request).await?.into_inner().url;
    websocket::connect(&url, "v4.channel.k8s.io").await
}

async fn attach(cri: &mut Cri, request: AttachRequest) -> Result<WebSocket> {
    let url = cri.client.runtime.attach(request).await?.into_inner().url;
    websocket::connect(&url, "v4.channel.k8s.io").await
}

async fn exec_streams_output_and_errors(cri: &mut Cri) -> Result<()> {
    let (_pod, id) = cri.running().await?;
    let request = ExecRequest { stderr: true, ..exec_request(&id, "echo out; echo err >&2") };
    let mut socket = exec(cri, request).await?;
    let heard = Heard::to_the_end(&mut socket).await?;
    assert_eq!((heard.text(STDOUT).as_str(), heard.text(STDERR).as_str()), ("out\n", "err\n"));
    let status: serde_json::Value = serde_json::from_str(&heard.text(ERROR))?;
    assert_eq!(status["status"], "Success");
    Ok(())
}

async fn exec_streams_an_exit_code(cri: &mut Cri) -> Result<()> {
    let (_pod, id) = cri.running().await?;
    let mut socket = exec(cri, exec_request(&id, "exit 6")).await?;
    let heard = Heard::to_the_end(&mut socket).await?;
    let status: serde_json::Value = serde_json::from_str(&heard.text(ERROR))?;
    assert_eq!((&status["status"], &status["reason"]), (&"Failure".into(), &"NonZeroExitCode".into()));
    let cause = &status["details"]["causes"][0];
    assert_eq!((&cause["reason"], &cause["message"]), (&"ExitCode".into(), &"6".into()));
    Ok(())
}

async fn exec_streams_input(cri: &mut Cri) -> Result<()> {
    let (_pod, id) = cri.running().await?;
    let request = ExecRequest { stdin: true, ..exec_request(&id, "read line; echo got $line") };
    let mut socket = exec(cri, request).await?;
    send(&mut socket, STDIN, b"some input\n").await?;
    assert_eq!(Heard::to_the_end(&mut socket).await?.text(STDOUT), "got some input\n");
    Ok(())
}

async fn exec_has_a_terminal(cri: &mut Cri) -> Result<()> {
    let (_pod, id) = cri.running().await?;
    let line = "test -t 0 && test -t 1 && read line; stty size";
    let request = ExecRequest { stdin: true, tty: true, ..exec_request(&id, line) };
    let mut socket = exec(cri, request).await?;
    send(&mut socket, RESIZE, br#"{"Width":123,"Height":45}"#).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    send(&mut socket, STDIN, b"now\r").await?;
    let heard = Heard::to_the_end(&mut socket).await?;
    assert!(heard.text(STDOUT).contains("45 123"), "{:?}", heard.text(STDOUT));
    Ok(())
}

async fn exec_speaks_spdy(cri: &mut Cri) -> Result<()> {
    let (_pod, id) = cri.running().await?;
    let request = exec_request(&id, "head -c 5000 /dev/zero");
    let url = cri.client.runtime.exec(request).await?.into_inner().url;
    let bytes = tokio::task::spawn_blocking(move || -> Result<usize> {
        let mut session = spdy::Session::open(&url, "v4.channel.k8s.io")?;
        session.stream(&[("streamtype", "error")], true)?;
        let output = session.stream(&[("streamtype", "stdout")], true)?;
        let mut bytes = 0;
        loop {
            match session.event()? {
                spdy::Event::Data { stream, bytes: more } if stream == output => bytes += more,
                spdy::Event::End { stream } if stream == output => return Ok(bytes),
                spdy::Event::Closed => return Ok(bytes),
                _ => {}
            }
        }
    });
    assert_eq!(bytes.await??, 5000);
    Ok(())
}

async fn exec_without_streams_is_refused(cri: &mut Cri) -> Result<()> {
    let (_pod, id) = cri.running().await?;
    let request = ExecRequest { stdout: false, ..exec_request(&id, "true") };
    let refused = cri.client.runtime.exec(request).await.expect_err("there is nothing to stream");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    Ok(())
}

async fn exec_with_a_terminal_and_errors_is_refused(cri: &mut Cri) -> Result<()> {
    let (_pod, id) = cri.running().await?;
    let request = ExecRequest { tty: true, stderr: true, ..exec_request(&id, "true") };
    let refused = cri.client.runtime.exec(request).await.expect_err("a terminal has one stream");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    Ok(())
}

async fn exec_in_no_container_is_refused(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let config = cri.shell("true");
    let exited = cri.end(&pod, &config).await?.id;
    for id in [exited, unknown()] {
        assert!(cri.client.runtime.exec(exec_request(&id, "true")).await.is_err());
    }
    Ok(())
}

async fn a_streams_url_is_good_once(cri: &mut Cri) -> Result<()> {
    let (_pod, id) = cri.running().await?;
    let url = cri.client.runtime.exec(exec_request(&id, "echo once")).await?.into_inner().url;
    let mut socket = websocket::connect(&url, "v4.channel.k8s.io").await?;
    assert_eq!(Heard::to_the_end(&mut socket).await?.text(STDOUT), "once\n");
    assert!(websocket::connect(&url, "v4.channel.k8s.io").await.is_err());
    Ok(())
}

fn attach_request(container: &str) -> AttachRequest {
    AttachRequest { container_id: container.into(), stdout: true, ..Default::default() }
}

async fn attach_streams_the_output(cri: &mut Cri) -> Result<()> {
    let config = cri.shell("until test -e /go; do sleep 0.05; done; echo out; echo err >&2; exec sleep 1000");
    let (_pod, id) = cri.running_as(&config).await?;
    let mut socket = attach(cri, AttachRequest { stderr: true, ..attach_request(&id) }).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    cri.sh(&id, "touch /go").await?;
    let mut heard = Heard::default();
    heard.until(&mut socket, STDOUT, "out\n").await?;
    heard.until(&mut socket, STDERR, "err\n").await
}

async fn attach_streams_input(cri: &mut Cri) -> Result<()> {
    let mut config = cri.shell("while read line; do echo got $line; done");
    config.stdin = true;
    let (_pod, id) = cri.running_as(&config).await?;
    for words in ["the first", "the second"] {
        let mut socket = attach(cri, AttachRequest { stdin: true, ..attach_request(&id) }).await?;
        send(&mut socket, STDIN, format!("{words}\n").as_bytes()).await?;
        Heard::default().until(&mut socket, STDOUT, &format!("got {words}\n")).await?;
    }
    Ok(())
}

async fn stdin_once_closes_with_the_first_client(cri: &mut Cri) -> Result<()> {
    let mut config = cri.shell("while read line; do echo got $line; done; exit 9");
    (config.stdin, config.stdin_once) = (true, true);
    let (_pod, id) = cri.running_as(&config).await?;
    let mut socket = attach(cri, AttachRequest { stdin: true, ..attach_request(&id) }).await?;
    send(&mut socket, STDIN, b"a line\n").await?;
    Heard::default().until(&mut socket, STDOUT, "got a line\n").await?;
    socket.close(None).await?;
    drop(socket);
    assert_eq!(cri.client.wait(&id).await?.exit_code, 9);
    Ok(())
}

async fn attach_has_the_containers_terminal(cri: &mut Cri) -> Result<()> {
    let mut config = cri.shell("while read line; do stty size; done");
    (config.stdin, config.tty) = (true, true);
    let (_pod, id) = cri.running_as(&config).await?;
    let mut socket = attach(cri, AttachRequest { stdin: true, tty: true, ..attach_request(&id) }).await?;
    send(&mut socket, RESIZE, br#"{"Width":101,"Height":37}"#).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    send(&mut socket, STDIN, b"now\r").await?;
    Heard::default().until(&mut socket, STDOUT, "37 101").await
}

async fn attach_without_streams_is_refused(cri: &mut Cri) -> Result<()> {
    let (_pod, id) = cri.running().await?;
    let request = AttachRequest { stdout: false, ..attach_request(&id) };
    let refused = cri.client.runtime.attach(request).await.expect_err("there is nothing to stream");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    Ok(())
}

async fn attach_to_no_container_is_refused(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let config = cri.shell("true");
    let exited = cri.end(&pod, &config).await?.id;
    for id in [exited, unknown()] {
        assert!(cri.client.runtime.attach(attach_request(&id)).await.is_err());
    }
    Ok(())
}

async fn port_forward_reaches_the_pod(cri: &mut Cri) -> Result<()> {
    let config = cri.shell("mkdir /w; echo served > /w/index.html; exec httpd -f -p 127.0.0.1:8080 -h /w");
    let (pod, id) = cri.running_as(&config).await?;
    cri.until(&id, "wget -q -O /dev/null http://127.0.0.1:8080/").await?;
    let request = PortForwardRequest { pod_sandbox_id: pod.id, port: vec![8080] };
    let url = cri.client.runtime.port_forward(request).await?.into_inner().url;
    let mut socket = websocket::connect(&url, "v4.channel.k8s.io").await?;
    let mut heard = Heard::default();
    // Channel 0 is the first port's data; it begins with the port's number.
    send(&mut socket, 0, b"GET / HTTP/1.0\r\n\r\n").await?;
    heard.until(&mut socket, 0, "served\n").await?;
    assert_eq!(heard.0[0][..2], 8080_u16.to_le_bytes());
    Ok(())
}

async fn port_forward_to_a_stopped_pod_is_refused(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    cri.stop_pod(&pod.id).await?;
    for pod_sandbox_id in [pod.id, unknown()] {
        let request = PortForwardRequest { pod_sandbox_id, port: vec![80] };
        assert!(cri.client.runtime.port_forward(request).await.is_err());
    }
    Ok(())
}
