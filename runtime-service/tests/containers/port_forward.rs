//! PortForward.

use std::time::Duration;

use crisp_proto::runtime::v1 as proto;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use crisp_streaming::StreamError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Request;

use crate::lab::lab;
use crate::streams::read_all;

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
    let client = lab.forward(&pod).await;
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

/// A port may send all that it has and close, and still wait for the answer of the client.
#[tokio::test]
async fn a_port_that_has_ended_its_output_still_gets_all_that_the_client_sends() {
    let lab = lab!();
    let pod = lab.pod("forward-half").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = lab.forward(&pod).await;
    let mut connection = client.open(port).unwrap();
    let (mut in_pod, _) = listener.accept().await.unwrap();
    in_pod.write_all(b"all there is").await.unwrap();
    in_pod.shutdown().await.unwrap();
    let mut output = Vec::new();
    while let Some(bytes) = connection.reader.read().await.unwrap() {
        output.extend_from_slice(&bytes);
    }
    assert_eq!(output, b"all there is");
    // Longer than a client that cannot end its own direction is waited for.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let write = async {
        connection.writer.write(&[1; 300_000]).await.unwrap();
        connection.writer.close().await.unwrap();
    };
    let mut input = Vec::new();
    let both = async { tokio::join!(write, in_pod.read_to_end(&mut input)).1 };
    let read = tokio::time::timeout(Duration::from_secs(60), both).await.expect("the end of the input");
    assert_eq!(read.unwrap(), 300_000);
    assert!(input.iter().all(|byte| *byte == 1));
    assert_eq!(read_all(Some(connection.error)).await, "");
    lab.remove_pod(&pod).await;
}

/// A word on the error stream would end the whole session of kubectl.
#[tokio::test]
async fn a_connection_that_the_pod_resets_ends_alone_and_without_a_word() {
    let lab = lab!();
    let pod = lab.pod("forward-broken").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = lab.forward(&pod).await;
    // Every second time the server writes while the connection is reset; the kernel may then report the reset to that write.
    for is_written in [false, true, false, true, false, true] {
        let mut connection = client.open(port).unwrap();
        connection.writer.write(b"hello").await.unwrap();
        let (mut in_pod, _) = listener.accept().await.unwrap();
        in_pod.read_u8().await.unwrap();
        if is_written {
            connection.writer.write(&[0; 256 << 10]).await.unwrap();
        }
        // With input unread, its end is a reset.
        drop(in_pod);
        let end = tokio::time::timeout(Duration::from_secs(20), connection.reader.read()).await;
        assert_eq!(end.expect("an end"), Err(StreamError::Reset));
        assert_eq!(read_all(Some(connection.error)).await, "");
    }
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_port_forward_session_ends_with_its_pod() {
    let lab = lab!();
    let pod = lab.pod("forward-end").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = lab.forward(&pod).await;
    let mut connection = client.open(port).unwrap();
    connection.writer.write(b"hello").await.unwrap();
    let (_in_pod, _) = listener.accept().await.unwrap();
    let request = proto::StopPodSandboxRequest { pod_sandbox_id: pod.clone() };
    lab.service.stop_pod_sandbox(Request::new(request)).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), client.gone()).await.expect("the session ends");
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_client_that_resets_a_connection_ends_it_in_the_pod_also_when_that_takes_nothing() {
    let lab = lab!();
    let pod = lab.pod("forward-reset").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = lab.forward(&pod).await;
    let mut connection = client.open(port).unwrap();
    // More than the sockets hold.
    let flood = async { while connection.writer.write(&[0; 64 << 10]).await.is_ok() {} };
    let accept = async {
        let (in_pod, _) = listener.accept().await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        in_pod
    };
    let mut in_pod = tokio::select! {
        () = flood => panic!("the stream broke"),
        in_pod = accept => in_pod,
    };
    drop(connection);
    let mut buffer = vec![0; 64 << 10];
    let end = async { while let Ok(1..) = in_pod.read(&mut buffer).await {} };
    tokio::time::timeout(Duration::from_secs(20), end).await.expect("the connection ends");
    lab.remove_pod(&pod).await;
}
