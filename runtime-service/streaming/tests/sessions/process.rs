use std::time::{Duration, Instant};

use crisp_streaming::client::{ClientError, ProcessClient};
use crisp_streaming::{
    Outcome, ProcessRequest, ProcessSession, Size, StreamConfig, StreamError, StreamReader, StreamServer,
};

pub const ALL: ProcessRequest = ProcessRequest { stdin: true, stdout: true, stderr: true, tty: false };

pub async fn server() -> StreamServer {
    StreamServer::open(&StreamConfig::default()).await.unwrap()
}

/// Reads everything up to the end of the stream.
pub async fn read_all(mut reader: StreamReader) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(bytes) = reader.read().await.unwrap() {
        all.extend_from_slice(&bytes);
    }
    all
}

/// Echoes stdin on stdout, writes a word to stderr, and ends with 7.
async fn echo(mut session: ProcessSession) {
    let (mut input, mut output) = (session.stdin.take().unwrap(), session.stdout.take().unwrap());
    session.stderr.as_mut().unwrap().write(b"begun").await.unwrap();
    while let Ok(Some(bytes)) = input.read().await {
        output.write(&bytes).await.unwrap();
    }
    output.write(b"<end>").await.unwrap();
    output.close().await.unwrap();
    session.finish(Outcome::Exited(7)).await;
}

#[tokio::test]
async fn stdin_half_closes_and_the_exit_code_comes_after_all_output() {
    let server = server().await;
    let url = server.process("pod", "exec", ALL, echo).unwrap();
    let mut client = ProcessClient::connect(&url, ALL).await.unwrap();
    let (mut stdin, stdout, stderr) =
        (client.stdin.take().unwrap(), client.stdout.take().unwrap(), client.stderr.take().unwrap());
    stdin.write(b"hello ").await.unwrap();
    stdin.write(b"world").await.unwrap();
    stdin.close().await.unwrap();
    assert_eq!(read_all(stdout).await, b"hello world<end>");
    assert_eq!(read_all(stderr).await, b"begun");
    assert_eq!(client.wait().await.unwrap(), 7);
    let begun = Instant::now();
    client.close().await;
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn many_megabytes_go_both_ways_at_once_through_small_windows() {
    const SIZE: usize = 20 << 20;
    let server = server().await;
    let url = server.process("pod", "exec", ALL, echo).unwrap();
    let mut client = ProcessClient::connect(&url, ALL).await.unwrap();
    let (mut stdin, stdout) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
    let pattern: Vec<u8> = (0..SIZE).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let send = async {
        for piece in pattern.chunks(70_000) {
            stdin.write(piece).await.unwrap();
        }
        stdin.close().await.unwrap();
    };
    let ((), back) = tokio::join!(send, read_all(stdout));
    assert_eq!(back.len(), SIZE + 5);
    assert!(back[..SIZE] == pattern);
}

#[tokio::test]
async fn a_server_that_does_not_read_stops_its_client_and_holds_no_more_than_a_window() {
    let server = server().await;
    let url = server.process("pod", "exec", ALL, |session| async move {
        session.gone().await;
        drop(session);
    });
    let mut client = ProcessClient::connect(&url.unwrap(), ALL).await.unwrap();
    let mut stdin = client.stdin.take().unwrap();
    let mut sent = 0;
    let flood = async {
        loop {
            stdin.write(&[0; 10_000]).await.unwrap();
            sent += 10_000;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(1), flood).await.is_err());
    assert!(sent <= 128 << 10, "{sent}");
}

#[tokio::test]
async fn a_reader_that_is_slow_stops_the_server() {
    let server = server().await;
    let (sender, mut written) = tokio::sync::mpsc::unbounded_channel();
    let url = server.process("pod", "exec", ALL, move |session| async move {
        let mut session: ProcessSession = session;
        let mut stdout = session.stdout.take().unwrap();
        while stdout.write(&[7; 10_000]).await.is_ok() {
            sender.send(10_000).unwrap();
        }
    });
    let mut client = ProcessClient::connect(&url.unwrap(), ALL).await.unwrap();
    let mut count = 0;
    while let Ok(bytes) = tokio::time::timeout(Duration::from_millis(500), written.recv()).await {
        count += bytes.unwrap();
        assert!(count < 1 << 20, "the window of a client that announced one is heeded");
    }
    let mut stdout = client.stdout.take().unwrap();
    let read = async { while stdout.read().await.unwrap().is_some() {} };
    tokio::select! {
        bytes = written.recv() => assert!(bytes.is_some(), "it goes on when there is room"),
        () = read => panic!("the end"),
    }
}

#[tokio::test]
async fn sizes_reach_the_server_as_they_change() {
    let server = server().await;
    let request = ProcessRequest { stderr: false, tty: true, ..ALL };
    let (sender, mut sizes) = tokio::sync::mpsc::unbounded_channel();
    let url = server.process("pod", "exec", request, move |session| async move {
        let mut session: ProcessSession = session;
        let mut resizes = session.resizes.take().unwrap();
        while let Some(size) = resizes.next().await {
            sender.send(size).unwrap();
        }
    });
    let mut client = ProcessClient::connect(&url.unwrap(), request).await.unwrap();
    assert!(client.stderr.is_none());
    let resizes = client.resizes.as_mut().unwrap();
    for columns in [80, 100] {
        let size = Size { columns, rows: 24 };
        resizes.send(size).await.unwrap();
        assert_eq!(sizes.recv().await, Some(size));
    }
}

#[tokio::test]
async fn a_client_that_vanishes_is_noticed_also_behind_unread_input() {
    for flood in [0, 1 << 20] {
        let server = server().await;
        let (sender, gone) = tokio::sync::oneshot::channel();
        let url = server.process("pod", "exec", ALL, move |mut session| async move {
            session.stdout.as_mut().unwrap().write(b"begun").await.unwrap();
            // This session reads nothing.
            session.gone().await;
            sender.send(()).unwrap();
        });
        let mut client = ProcessClient::connect(&url.unwrap(), ALL).await.unwrap();
        let mut stdin = client.stdin.take().unwrap();
        assert_eq!(client.stdout.as_mut().unwrap().read().await.unwrap().unwrap(), "begun");
        let _ = tokio::time::timeout(Duration::from_millis(300), stdin.write(&vec![0; flood])).await;
        drop((stdin, client));
        tokio::time::timeout(Duration::from_secs(5), gone).await.expect("noticed").unwrap();
    }
}

#[tokio::test]
async fn a_failure_is_told_as_such() {
    let server = server().await;
    let url =
        server.process("pod", "exec", ALL, |session| session.finish(Outcome::Failed("no such file".into())));
    let mut client = ProcessClient::connect(&url.unwrap(), ALL).await.unwrap();
    let error = client.wait().await.unwrap_err();
    assert!(matches!(&error, ClientError::Server(text) if text.contains("no such file")), "{error}");
}

#[tokio::test]
async fn sessions_end_with_their_server() {
    let server = server().await;
    let url = server.process("pod", "exec", ALL, |session| async move { session.gone().await }).unwrap();
    let client = ProcessClient::connect(&url, ALL).await.unwrap();
    drop(server);
    let mut stdout = client.stdout.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(5), stdout.read()).await.unwrap();
    assert_eq!(end, Err(StreamError::Lost));
}

/// Like a command that closes its input and continues.
#[tokio::test]
async fn input_that_is_not_read_any_more_stops_no_client() {
    let server = server().await;
    let (sender, filled) = tokio::sync::oneshot::channel::<()>();
    let url = server.process("pod", "exec", ALL, |mut session| async move {
        let _ = filled.await;
        drop(session.stdin.take());
        session.gone().await;
    });
    let mut client = ProcessClient::connect(&url.unwrap(), ALL).await.unwrap();
    let mut stdin = client.stdin.take().unwrap();
    let fill = async { while stdin.write(&[0; 10_000]).await.is_ok() {} };
    assert!(tokio::time::timeout(Duration::from_millis(500), fill).await.is_err(), "the window is full");
    sender.send(()).unwrap();
    let more = tokio::time::timeout(Duration::from_secs(5), stdin.write(&[0; 1 << 20])).await;
    assert_eq!(more.expect("thrown away is as good as read"), Ok(()));
}
