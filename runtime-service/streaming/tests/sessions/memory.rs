//! Messages of many megabytes over a WebSocket, which few clients may send.

use std::time::Duration;

use crisp_streaming::{PortForwardSession, ProcessSession, StreamServer};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::tungstenite::Message;

use super::limits::wait;
use super::process::{ALL, server};
use super::websocket::{Socket, connect};

const V4: &str = "v4.channel.k8s.io";

/// Sends the beginning of a long message, which takes memory until its end has arrived.
async fn begin_long_message(socket: &mut Socket, with_pings: bool) {
    let piece = vec![0; 1_900_000];
    let mut opcode = 2;
    for _ in 0..3 {
        // A fragment that is not the last, masked with zeros.
        let mut bytes = vec![opcode, 0xff];
        bytes.extend_from_slice(&(piece.len() as u64).to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&piece);
        if with_pings {
            bytes.extend_from_slice(&[0x89, 0x80, 0, 0, 0, 0]);
        }
        // The server may have closed already.
        if socket.get_mut().write_all(&bytes).await.is_err() {
            return;
        }
        opcode = 0;
    }
}

/// Returns the code with which the server closes; None when it does not close.
async fn closing_code(socket: &mut Socket, is_expected: bool) -> Option<u16> {
    let end = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Close(end))) => return end.map(|end| end.code.into()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Some(0),
            }
        }
    };
    let time = Duration::from_secs(if is_expected { 30 } else { 1 });
    tokio::time::timeout(time, end).await.ok().flatten()
}

#[tokio::test]
async fn only_so_many_clients_of_a_pod_and_in_all_may_send_long_messages() {
    let server = server().await;
    let mut open = Vec::new();
    // Two for one pod, eight in total.
    for (pod, code) in [
        ("a", None),
        ("a", None),
        ("a", Some(1013)),
        ("b", None),
        ("b", None),
        ("c", None),
        ("c", None),
        ("d", None),
        ("d", None),
        ("e", Some(1013)),
    ] {
        let url = server.process(pod, "exec", ALL, wait).unwrap();
        let mut socket = connect(&url, V4).await;
        begin_long_message(&mut socket, true).await;
        assert_eq!(closing_code(&mut socket, code.is_some()).await, code, "{pod}, after {}", open.len());
        open.push(socket);
    }
    // The permits are returned when the connections close.
    drop(open);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let url = server.process("e", "exec", ALL, wait).unwrap();
    let mut socket = connect(&url, V4).await;
    begin_long_message(&mut socket, true).await;
    assert_eq!(closing_code(&mut socket, false).await, None);
}

/// Also after a message has been taken, its memory stays with the connection.
#[tokio::test]
async fn a_long_message_that_is_over_counts_as_long_as_its_connection() {
    let server = server().await;
    let mut open = Vec::new();
    for code in [None, None, Some(1013)] {
        let url = server.process("pod", "exec", ALL, |mut session: ProcessSession| async move {
            let mut stdin = session.stdin.take().unwrap();
            while let Ok(Some(_)) = stdin.read().await {}
            session.gone().await;
        });
        let mut socket = connect(&url.unwrap(), V4).await;
        let _ = socket.send(Message::binary(vec![0; 5 << 20])).await;
        let _ = socket.send(Message::binary(vec![0; 10])).await;
        assert_eq!(closing_code(&mut socket, code.is_some()).await, code);
        open.push(socket);
    }
}

#[tokio::test]
async fn long_messages_through_a_tunnel_count_too() {
    let server = server().await;
    let mut open = Vec::new();
    for is_open in [true, true, false] {
        let serve = |session: PortForwardSession| async move { session.gone().await };
        let url = server.port_forward("pod", vec![], serve).unwrap();
        let mut socket = connect(&url, "SPDY/3.1+portforward.k8s.io").await;
        // One message of 20 MiB of which 4 MiB come in pieces.
        let mut bytes = vec![0x82, 0xff];
        bytes.extend_from_slice(&(20u64 << 20).to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        let mut sent = socket.get_mut().write_all(&bytes).await;
        for _ in 0..64 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            sent = sent.and(socket.get_mut().write_all(&[0; 64 << 10]).await);
        }
        assert_eq!(closing_code(&mut socket, !is_open).await.is_none(), is_open, "{sent:?}");
        open.push(socket);
    }
}

/// Opens two connections that take the permits of a pod.
async fn take_the_permits(server: &StreamServer) -> [Socket; 2] {
    let mut sockets = Vec::new();
    for _ in 0..2 {
        let mut socket = connect(&server.process("pod", "exec", ALL, wait).unwrap(), V4).await;
        begin_long_message(&mut socket, false).await;
        assert_eq!(closing_code(&mut socket, false).await, None);
        sockets.push(socket);
    }
    sockets.try_into().unwrap()
}

#[tokio::test]
async fn a_client_that_only_sends_and_is_refused_is_gone_after_seconds() {
    let server = server().await;
    let _others = take_the_permits(&server).await;
    let (sender, gone) = tokio::sync::oneshot::channel();
    let url = server.process("pod", "exec", ALL, |mut session: ProcessSession| async move {
        let mut stdout = session.stdout.take().unwrap();
        // This waits for the client while it holds the lock of the connection's output.
        while stdout.write(&[0; 64 << 10]).await.is_ok() {}
        session.gone().await;
        sender.send(()).unwrap();
    });
    let mut socket = connect(&url.unwrap(), V4).await;
    begin_long_message(&mut socket, false).await;
    tokio::time::timeout(Duration::from_secs(60), gone).await.expect("over").unwrap();
}

#[tokio::test]
async fn what_was_sent_before_a_proper_close_arrives_without_a_permit() {
    let server = server().await;
    let _others = take_the_permits(&server).await;
    let (sender, received) = tokio::sync::oneshot::channel();
    let url = server.process("pod", "exec", ALL, |mut session: ProcessSession| async move {
        let mut stdin = session.stdin.take().unwrap();
        // Time for the server to look for the end of a client that it cannot read further.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let mut bytes = 0;
        let end = loop {
            match stdin.read().await {
                Ok(Some(more)) => bytes += more.len(),
                end => break end.map(|_| ()),
            }
        };
        sender.send((bytes, end)).unwrap();
        // This future owns the whole session.
        session.gone().await;
    });
    let mut socket = connect(&url.unwrap(), V4).await;
    // Together they are longer than a message without a permit.
    for bytes in [1_300_000, 900_000] {
        socket.send(Message::binary(vec![0; bytes])).await.unwrap();
    }
    socket.close(None).await.unwrap();
    // The socket is not dropped: a socket that is closed with unread bytes sends nothing more.
    socket.get_mut().shutdown().await.unwrap();
    let received = tokio::time::timeout(Duration::from_secs(60), received).await.expect("an end").unwrap();
    assert_eq!(received, (2_199_998, Ok(())));
}
