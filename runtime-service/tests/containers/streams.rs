//! Exec, attach and port-forward, from the RPC to the process.

use std::time::{Duration, Instant};

use crisp_proto::runtime::v1 as proto;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use crisp_streaming::client::{ClientError, PortForwardClient, ProcessClient};
use crisp_streaming::{ProcessRequest, Size, StreamReader};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::{Code, Request, Status};

use crate::lab::{Lab, lab, shell};
use crate::restart::over_a_restart;

const ALL: ProcessRequest = ProcessRequest { stdin: true, stdout: true, stderr: true, tty: false };
const OUTPUT: ProcessRequest = ProcessRequest { stdin: false, ..ALL };
const TTY: ProcessRequest = ProcessRequest { stderr: false, tty: true, ..ALL };

impl Lab {
    async fn exec_url(&self, id: &str, words: &[&str], streams: ProcessRequest) -> Result<String, Status> {
        let ProcessRequest { stdin, stdout, stderr, tty } = streams;
        let cmd = words.iter().map(|word| (*word).to_owned()).collect();
        let request = proto::ExecRequest { container_id: id.into(), cmd, stdin, stdout, stderr, tty };
        Ok(self.service.exec(Request::new(request)).await?.into_inner().url)
    }

    async fn exec_stream(&self, id: &str, line: &str, streams: ProcessRequest) -> ProcessClient {
        let url = self.exec_url(id, &["sh", "-c", line], streams).await.unwrap();
        ProcessClient::connect(&url, streams).await.unwrap()
    }

    async fn attach(&self, id: &str, streams: ProcessRequest) -> ProcessClient {
        let ProcessRequest { stdin, stdout, stderr, tty } = streams;
        let request = proto::AttachRequest { container_id: id.into(), stdin, stdout, stderr, tty };
        let url = self.service.attach(Request::new(request)).await.unwrap().into_inner().url;
        ProcessClient::connect(&url, streams).await.unwrap()
    }

    /// Whether a line of `ps` in the container has the text.
    async fn has_process(&self, id: &str, text: &str) -> bool {
        self.sh(id, "ps").await.lines().any(|line| line.contains(text) && !line.contains("sh -c ps"))
    }

    async fn until_no_process(&self, id: &str, text: &str) {
        let begun = Instant::now();
        while self.has_process(id, text).await {
            assert!(begun.elapsed() < Duration::from_secs(20), "{text} is still there");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn read_all(reader: Option<StreamReader>) -> String {
    let mut reader = reader.unwrap();
    let mut all = Vec::new();
    while let Some(bytes) = reader.read().await.unwrap() {
        all.extend_from_slice(&bytes);
    }
    String::from_utf8(all).unwrap()
}

async fn read_until(reader: &mut Option<StreamReader>, text: &str) -> String {
    let mut all = String::new();
    let read = async {
        while !all.contains(text) {
            let bytes = reader.as_mut().unwrap().read().await.unwrap().expect("the end");
            all.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), read).await.is_ok(), "no {text:?} in {all:?}");
    all
}

#[tokio::test]
async fn an_exec_has_its_streams_apart_and_its_exit_code() {
    let lab = lab!();
    let pod = lab.pod("exec-stream").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    let mut client = lab.exec_stream(&id, "echo out; echo err >&2; cat; exit 3", ALL).await;
    let mut stdin = client.stdin.take().unwrap();
    stdin.write(b"from the client").await.unwrap();
    stdin.close().await.unwrap();
    assert_eq!(read_all(client.stdout.take()).await, "out\nfrom the client");
    assert_eq!(read_all(client.stderr.take()).await, "err\n");
    assert_eq!(client.wait().await.unwrap(), 3);
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn much_output_arrives_whole_before_the_exit_code() {
    let lab = lab!();
    let pod = lab.pod("exec-much").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    let mut client = lab.exec_stream(&id, "head -c 20000000 /dev/zero | cat", OUTPUT).await;
    assert_eq!(read_all(client.stdout.take()).await.len(), 20_000_000);
    assert_eq!(client.wait().await.unwrap(), 0);
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_terminal_has_the_clients_size_and_takes_its_keys() {
    let lab = lab!();
    let pod = lab.pod("exec-tty").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    let mut client = lab.exec_stream(&id, "echo TERM=$TERM; exec sh", TTY).await;
    read_until(&mut client.stdout, "TERM=xterm").await;
    client.resizes.as_mut().unwrap().send(Size { columns: 123, rows: 45 }).await.unwrap();
    let begun = Instant::now();
    loop {
        client.stdin.as_mut().unwrap().write(b"stty size; echo do''ne\n").await.unwrap();
        if read_until(&mut client.stdout, "done").await.contains("45 123") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    // ^D ends the shell.
    client.stdin.as_mut().unwrap().write(b"exit 5\n").await.unwrap();
    assert_eq!(client.wait().await.unwrap(), 5);
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_process_that_the_command_left_does_not_hold_the_session() {
    let lab = lab!();
    let pod = lab.pod("exec-left").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    let mut client = lab.exec_stream(&id, "sleep 500 & echo said", OUTPUT).await;
    let begun = Instant::now();
    assert_eq!(read_all(client.stdout.take()).await, "said\n");
    assert_eq!(client.wait().await.unwrap(), 0);
    assert!(begun.elapsed() < Duration::from_secs(5));
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn what_cannot_run_says_why() {
    let lab = lab!();
    let pod = lab.pod("exec-refused").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    let url = lab.exec_url(&id, &["/no/such/program"], OUTPUT).await.unwrap();
    let mut client = ProcessClient::connect(&url, OUTPUT).await.unwrap();
    let error = client.wait().await.unwrap_err();
    assert!(matches!(&error, ClientError::Server(text) if text.contains("/no/such/program")), "{error}");
    let refused = |streams| lab.exec_url(&id, &["true"], streams);
    let none = ProcessRequest { stdin: false, stdout: false, stderr: false, tty: false };
    assert_eq!(refused(none).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(refused(ProcessRequest { tty: true, ..ALL }).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(lab.exec_url("ffff", &["true"], ALL).await.unwrap_err().code(), Code::NotFound);
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_client_that_vanishes_takes_its_command_with_it() {
    let lab = lab!();
    let pod = lab.pod("exec-vanish").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    for (line, streams) in [
        ("echo up; sleep 771", ALL),
        // Also what left the session, and what hears no SIGHUP.
        ("trap '' HUP; setsid sleep 771 & echo up; sleep 771; sleep 771", ALL),
        ("echo up; sleep 771", TTY),
    ] {
        let mut client = lab.exec_stream(&id, line, streams).await;
        read_until(&mut client.stdout, "up").await;
        assert!(lab.has_process(&id, "sleep 771").await);
        drop(client);
        lab.until_no_process(&id, "sleep 771").await;
    }
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn attached_clients_see_the_output_beside_the_log_and_send_input() {
    let lab = lab!();
    let pod = lab.pod("attach").await;
    let mut config = shell("app", "while read -r line; do echo \"got $line\"; echo err >&2; done; echo over");
    (config.stdin, config.stdin_once) = (true, true);
    let id = lab.run(&pod, config).await;
    let mut first = lab.attach(&id, ALL).await;
    let mut second = lab.attach(&id, OUTPUT).await;
    let mut stdin = first.stdin.take().unwrap();
    // The second client is attached once it sees something.
    let begun = Instant::now();
    loop {
        stdin.write(b"one\n").await.unwrap();
        let read = second.stdout.as_mut().unwrap().read();
        if tokio::time::timeout(Duration::from_millis(300), read).await.is_ok() {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    read_until(&mut first.stdout, "got one").await;
    read_until(&mut first.stderr, "err").await;
    // stdin_once: the container reads the end of its input with that of its client.
    stdin.close().await.unwrap();
    assert!(read_all(first.stdout.take()).await.ends_with("over\n"));
    assert_eq!(first.wait().await.unwrap(), 0);
    assert!(read_all(second.stdout.take()).await.ends_with("over\n"));
    lab.exited(&id).await;
    assert!(lab.log("app").contains("got one") && lab.log("app").contains("over"));
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_slow_client_is_cut_off_and_the_container_and_others_go_on() {
    let lab = lab!();
    let pod = lab.pod("attach-slow").await;
    let line = "read -r go; head -c 30000000 /dev/zero; echo finished";
    let mut config = shell("app", line);
    config.stdin = true;
    let id = lab.run(&pod, config).await;
    let mut slow = lab.attach(&id, OUTPUT).await;
    let mut starter = lab.attach(&id, ALL).await;
    // Both are attached when the server has answered a third request to the monitor.
    lab.sh(&id, "true").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    starter.stdin.as_mut().unwrap().write(b"go\n").await.unwrap();
    let status = lab.exited(&id).await;
    assert_eq!(status.exit_code, 0, "the container was not held up");
    assert!(lab.log("app").ends_with("finished\n"));
    let read = read_all(slow.stdout.take()).await;
    assert!(read.len() < 30_000_000);
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn ports_are_forwarded_with_half_close_and_refusals_end_alone() {
    let lab = lab!();
    let pod = lab.pod("forward").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listener6 = tokio::net::TcpListener::bind("[::1]:0").await.unwrap();
    let (port, port6) = (listener.local_addr().unwrap().port(), listener6.local_addr().unwrap().port());
    // Answers when it has read everything.
    let serve = |listener: tokio::net::TcpListener| async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut all = Vec::new();
            socket.read_to_end(&mut all).await.unwrap();
            socket.write_all(format!("read {}", all.len()).as_bytes()).await.unwrap();
        }
    };
    let servers = [tokio::spawn(serve(listener)), tokio::spawn(serve(listener6))];
    let request = proto::PortForwardRequest { pod_sandbox_id: pod.clone(), port: vec![] };
    let url = lab.service.port_forward(Request::new(request)).await.unwrap().into_inner().url;
    let client = PortForwardClient::connect(&url).await.unwrap();
    let refused = client.open(1).unwrap();
    let error = read_all(Some(refused.error)).await;
    assert!(error.contains("port 1") && error.contains("refused"), "{error}");
    for port in [port, port6] {
        let mut connection = client.open(port).unwrap();
        connection.writer.write(&[1; 300_000]).await.unwrap();
        connection.writer.close().await.unwrap();
        assert_eq!(read_all(Some(connection.reader)).await, "read 300000");
        assert_eq!(read_all(Some(connection.error)).await, "");
    }
    servers.iter().for_each(tokio::task::JoinHandle::abort);
    lab.remove_pod(&pod).await;
}

#[test]
fn commands_of_a_killed_server_end_and_attach_works_with_the_next() {
    over_a_restart(
        async |lab| {
            let pod = lab.pod("stream-restart").await;
            let id = lab.run(&pod, shell("app", "while echo tick; do sleep 0.2; done")).await;
            let line = "setsid sleep 772 & echo up; sleep 772; sleep 772";
            let mut client = lab.exec_stream(&id, line, ALL).await;
            read_until(&mut client.stdout, "up").await;
            // It goes with the runtime, not before the server.
            std::mem::forget(client);
            (pod, id)
        },
        async |lab, (pod, id)| {
            lab.until_no_process(&id, "sleep 772").await;
            let mut client = lab.attach(&id, OUTPUT).await;
            read_until(&mut client.stdout, "tick").await;
            assert!(lab.log("app").contains("tick"));
            lab.remove_pod(&pod).await;
        },
    );
}

#[tokio::test]
async fn a_command_hears_sighup_before_it_is_killed() {
    let lab = lab!();
    let pod = lab.pod("exec-hangup").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    // The shell would say on stderr that its child was hung up, and end by SIGPIPE: the pipe has no reader
    // any more.
    let line = "exec 2>/dev/null; trap 'touch /tmp/heard; exit' HUP; echo up; while :; do sleep 0.1; done";
    let mut client = lab.exec_stream(&id, line, ALL).await;
    read_until(&mut client.stdout, "up").await;
    drop(client);
    lab.until_no_process(&id, "trap").await;
    assert_eq!(lab.sh(&id, "ls /tmp").await, "heard\n");
    lab.remove_pod(&pod).await;
}
