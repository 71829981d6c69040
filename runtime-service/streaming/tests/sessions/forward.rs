use crisp_streaming::PortForwardSession;
use crisp_streaming::client::PortForwardClient;

use super::process::{read_all, server};

/// Echoes on even ports, after the port number; refuses odd ports.
async fn serve(mut session: PortForwardSession) {
    while let Some(mut stream) = session.next().await {
        tokio::spawn(async move {
            if stream.port % 2 == 1 {
                stream.error.write(format!("port {} is odd", stream.port).as_bytes()).await.unwrap();
                stream.error.close().await.unwrap();
                return;
            }
            stream.error.close().await.unwrap();
            while let Ok(Some(bytes)) = stream.reader.read().await {
                stream.writer.write(&bytes).await.unwrap();
            }
            stream.writer.write(format!(" by {}", stream.port).as_bytes()).await.unwrap();
            stream.writer.close().await.unwrap();
        });
    }
}

#[tokio::test]
async fn connections_are_apart_and_a_refused_one_ends_alone() {
    let server = server().await;
    let url = server.port_forward("pod", vec![], serve).unwrap();
    let client = PortForwardClient::connect(&url).await.unwrap();
    let mut first = client.open(80).unwrap();
    let refused = client.open(81).unwrap();
    let mut second = client.open(82).unwrap();
    first.writer.write(b"one").await.unwrap();
    second.writer.write(b"two").await.unwrap();
    assert_eq!(read_all(refused.error).await, b"port 81 is odd");
    second.writer.close().await.unwrap();
    first.writer.close().await.unwrap();
    assert_eq!(read_all(second.reader).await, b"two by 82");
    assert_eq!(read_all(first.reader).await, b"one by 80");
    assert!(read_all(first.error).await.is_empty());
}

#[tokio::test]
async fn thousands_of_connections_one_after_the_other_leave_no_stream_behind() {
    let server = server().await;
    let url = server.port_forward("pod", vec![], serve).unwrap();
    let client = PortForwardClient::connect(&url).await.unwrap();
    // More connections than may be open at once.
    for number in 0..3000u32 {
        let mut stream = client.open(80).unwrap();
        stream.writer.write(&number.to_be_bytes()).await.unwrap();
        stream.writer.close().await.unwrap();
        let back = read_all(stream.reader).await;
        assert_eq!(back[..4], number.to_be_bytes(), "{number}");
        drop(stream.error);
    }
}

#[tokio::test]
async fn hundreds_of_connections_opened_at_once_find_their_pairs() {
    let server = server().await;
    let url = server.port_forward("pod", vec![], serve).unwrap();
    let client = PortForwardClient::connect(&url).await.unwrap();
    let mut streams: Vec<_> = (0..300).map(|_| client.open(80).unwrap()).collect();
    for stream in &mut streams {
        stream.writer.write(b"one").await.unwrap();
    }
    for stream in streams {
        stream.writer.close().await.unwrap();
        assert_eq!(read_all(stream.reader).await, b"one by 80");
    }
}
