//! Exec with streams.

use std::time::{Duration, Instant};

use crisp_streaming::client::{ClientError, ProcessClient};
use crisp_streaming::{ProcessRequest, Size};
use tonic::Code;

use crate::lab::{lab, shell};
use crate::restart::over_a_restart;
use crate::streams::{ALL, OUTPUT, TTY, read_all, read_until};

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
async fn a_client_that_reads_slowly_gets_all_of_the_output_too() {
    let lab = lab!();
    let pod = lab.pod("exec-slow").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    let mut client = lab.exec_stream(&id, "head -c 600000 /dev/zero", OUTPUT).await;
    let mut stdout = client.stdout.take().unwrap();
    let mut all = 0;
    // The command ends while its output still fills the pipe and the window.
    while let Some(bytes) = stdout.read().await.unwrap() {
        all += bytes.len();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!((all, client.wait().await.unwrap()), (600_000, 0));
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
async fn a_process_that_the_command_left_does_not_delay_the_exit_code_by_what_it_prints() {
    let lab = lab!();
    let pod = lab.pod("exec-left-loud").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    let line = "(for i in $(seq 200); do echo x; sleep 0.1; done) & echo said";
    for streams in [OUTPUT, TTY] {
        let mut client = lab.exec_stream(&id, line, streams).await;
        let begun = Instant::now();
        read_until(&mut client.stdout, "said").await;
        assert_eq!(client.wait().await.unwrap(), 0);
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_terminal_has_the_clients_size_from_the_begin() {
    let lab = lab!();
    let pod = lab.pod("exec-tty-size").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    let mut client = lab.exec_stream(&id, "stty size", TTY).await;
    client.resizes.as_mut().unwrap().send(Size { columns: 123, rows: 45 }).await.unwrap();
    assert_eq!(read_all(client.stdout.take()).await, "45 123\r\n");
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
    // What it says meanwhile, more than a pipe holds, neither stops it nor ends it by SIGPIPE.
    let line = "trap 'head -c 300000 /dev/zero; echo bye >&2; touch /tmp/heard; exit' HUP; echo up; while :; do sleep 0.1; done";
    let mut client = lab.exec_stream(&id, line, ALL).await;
    read_until(&mut client.stdout, "up").await;
    drop(client);
    lab.until_no_process(&id, "trap").await;
    assert_eq!(lab.sh(&id, "ls /tmp").await, "heard\n");
    lab.remove_pod(&pod).await;
}

/// As programs in Go do that cancel: each stream is reset before the connection closes.
#[tokio::test]
async fn a_command_whose_client_resets_its_streams_as_it_leaves_hears_sighup() {
    let lab = lab!();
    let pod = lab.pod("exec-cancelled").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    // `yes` would get SIGPIPE at once, and its shell go on to its end.
    let line = "trap 'touch /tmp/heard; exit' HUP; yes; touch /tmp/broken; sleep 1";
    let mut client = lab.exec_stream(&id, line, ALL).await;
    read_until(&mut client.stdout, "y").await;
    drop((client.stdout.take(), client.stderr.take()));
    tokio::time::sleep(Duration::from_millis(20)).await;
    drop(client);
    lab.until_no_process(&id, "trap").await;
    assert_eq!(lab.sh(&id, "ls /tmp").await, "heard\n");
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn the_end_of_a_container_is_the_end_of_its_commands() {
    let lab = lab!();
    let pod = lab.pod("exec-ended").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    let mut client = lab.exec_stream(&id, "echo up; exec sleep 1000", ALL).await;
    read_until(&mut client.stdout, "up").await;
    lab.stop(&id, 0).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(20), client.wait()).await.expect("an end");
    assert_eq!(end.unwrap(), 137);
    let id = lab.run(&pod, shell("next", "sleep 1000")).await;
    let mut client = lab.exec_stream(&id, "echo up; exec sleep 1000", ALL).await;
    read_until(&mut client.stdout, "up").await;
    lab.remove_pod(&pod).await;
    let _ = tokio::time::timeout(Duration::from_secs(20), client.wait()).await.expect("an end");
}

/// Its buffer is full when the client goes: what the handler prints must not block.
#[tokio::test]
async fn a_terminal_is_hung_up_before_its_command_is_killed() {
    let lab = lab!();
    let pod = lab.pod("exec-tty-hangup").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    let line = "trap 'echo bye; touch /tmp/heard; exit' HUP; echo up; yes";
    let mut client = lab.exec_stream(&id, line, TTY).await;
    read_until(&mut client.stdout, "up").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(client);
    lab.until_no_process(&id, "trap").await;
    assert_eq!(lab.sh(&id, "ls /tmp").await, "heard\n");
    lab.remove_pod(&pod).await;
}

/// Sockets of this process that the other side has closed and this one has not.
fn half_closed(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    table
        .lines()
        .filter(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let (address, state) = (fields.next().unwrap_or_default(), fields.nth(1).unwrap_or_default());
            address.ends_with(&local) && state == "08"
        })
        .count()
}

#[tokio::test]
async fn a_client_that_vanished_holds_no_socket_while_its_command_has_grace() {
    let lab = lab!();
    let pod = lab.pod("exec-socket").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    let line = "trap '' HUP; echo up; while :; do sleep 0.05; done";
    let url = lab.exec_url(&id, &["sh", "-c", line], ALL).await.unwrap();
    let port = url.split(['/', ':']).find_map(|part| part.parse::<u16>().ok()).unwrap();
    let mut client = ProcessClient::connect(&url, ALL).await.unwrap();
    read_until(&mut client.stdout, "up").await;
    drop(client);
    // The server hears of it within a second at most; the command, which hears no SIGHUP, has another one.
    let mut seen = 0;
    while lab.has_process(&id, "trap").await {
        seen = if half_closed(port) > 0 { seen + 1 } else { 0 };
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(seen == 0, "the socket was there when the command ended");
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn clients_that_open_a_terminal_resize_it_and_vanish_leave_nothing_in_the_monitor() {
    let lab = lab!();
    let pod = lab.pod("exec-rounds").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    let monitor = lab.monitor_pid(&pod).await.as_raw_nonzero();
    let descriptors = || std::fs::read_dir(format!("/proc/{monitor}/fd")).unwrap().count();
    lab.sh(&id, "true").await;
    let before = descriptors();
    for round in 1..=200 {
        let mut client = lab.exec_stream(&id, "echo up; exec sleep 773", TTY).await;
        client.resizes.as_mut().unwrap().send(Size { columns: round, rows: 24 }).await.unwrap();
        read_until(&mut client.stdout, "up").await;
    }
    lab.until_no_process(&id, "sleep 773").await;
    let begun = Instant::now();
    while descriptors() > before {
        assert!(begun.elapsed() < Duration::from_secs(20), "{before} before, {} after", descriptors());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    lab.remove_pod(&pod).await;
}
