//! A connection against a peer that writes its frames by hand.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::frame::{self, Decoder, Encoder, Frame};
use super::{Headers, Incoming, Role, Rules, Running};
use crate::slots::{Limit, OwnedSlots, Slots};
use crate::stream::{StreamError, StreamReader, StreamWriter, WINDOW};
use crate::transport;

struct Peer {
    io: DuplexStream,
    encoder: Encoder,
    decoder: Decoder,
    input: BytesMut,
}

impl Peer {
    async fn send(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    async fn open(&mut self, stream: u32) {
        let mut bytes = Vec::new();
        self.encoder.syn_stream(&mut bytes, stream, &Headers::new(&[("port", "80")]), false);
        self.send(&bytes).await;
    }

    async fn window(&mut self, initial: u32) {
        let mut settings = Vec::new();
        frame::settings(&mut settings, initial);
        self.send(&settings).await;
    }

    async fn data(&mut self, stream: u32, data: &[u8]) {
        self.send(&frame::data_head(stream, data.len(), false)).await;
        self.send(data).await;
    }

    /// Reads until the server has closed its side.
    async fn until_end(&mut self) {
        while self.io.read_buf(&mut self.input).await.unwrap() > 0 {}
    }

    async fn next(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.decoder.next(&mut self.input).unwrap() {
                return frame;
            }
            assert_ne!(self.io.read_buf(&mut self.input).await.unwrap(), 0, "the connection is over");
        }
    }

    /// Reads until the server resets a stream.
    async fn reset(&mut self) -> u32 {
        loop {
            if let Frame::RstStream { stream } = self.next().await {
                return stream;
            }
        }
    }
}

const PIPE: usize = 1 << 20;

/// A server and its peer. A real socket beside them serves the hang-up detection; it stays open.
async fn session(rules: Rules) -> (Running, mpsc::Receiver<Incoming>, Peer, TcpStream) {
    session_over(rules, PIPE).await
}

async fn session_over(rules: Rules, pipe: usize) -> (Running, mpsc::Receiver<Incoming>, Peer, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let open = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let hangup = transport::prepare(&open, transport::IdleLimits::default());
    // The other side of the socket stays open.
    std::mem::forget(listener.accept().await.unwrap());
    let (ours, theirs) = tokio::io::duplex(pipe);
    let (running, incoming) =
        Running::start(Role::Server, rules, Box::new(ours), BytesMut::new(), hangup, 16);
    let peer =
        Peer { io: theirs, encoder: Encoder::default(), decoder: Decoder::default(), input: BytesMut::new() };
    drop(listener);
    (running, incoming, peer, open)
}

#[tokio::test]
async fn a_stalled_stream_of_a_peer_without_windows_is_reset_and_the_others_go_on() {
    let rules = Rules { patience: Some(Duration::from_millis(50)), ..Rules::default() };
    let (_running, mut incoming, mut peer, _open) = session(rules).await;
    // Two pairs.
    let mut pairs = Vec::new();
    for stream in [1, 3, 5, 7] {
        peer.open(stream).await;
        pairs.push(incoming.recv().await.unwrap());
    }
    let [stalled, _error, mut other, _other_error]: [Incoming; 4] = pairs.try_into().ok().unwrap();
    peer.data(1, &[0; 2 * WINDOW]).await;
    peer.data(5, b"hello").await;
    assert_eq!(other.reader.read().await.unwrap().unwrap(), "hello");
    assert_eq!(stalled.reader.breakage().wait().await, StreamError::Reset);
    assert_eq!(peer.reset().await, 1);
}

#[tokio::test]
async fn a_stream_that_breaks_its_window_is_reset_at_once() {
    let (_running, mut incoming, mut peer, _open) = session(Rules::default()).await;
    peer.window(70_000).await;
    peer.open(1).await;
    peer.open(3).await;
    let (stalled, mut other) = (incoming.recv().await.unwrap(), incoming.recv().await.unwrap());
    peer.data(1, &[0; WINDOW]).await;
    peer.data(3, b"hello").await;
    assert_eq!(other.reader.read().await.unwrap().unwrap(), "hello");
    peer.data(1, &[0; WINDOW]).await;
    peer.data(3, b"again").await;
    let again = tokio::time::timeout(Duration::from_secs(10), other.reader.read()).await;
    assert_eq!(again.expect("not held up").unwrap().unwrap(), "again");
    assert_eq!(stalled.reader.breakage().wait().await, StreamError::Reset);
    assert_eq!(peer.reset().await, 1);
}

#[tokio::test]
async fn streams_beyond_those_of_the_owner_are_refused_until_others_end() {
    let slots = OwnedSlots { slots: Slots::new(Limit { each: 1, all: 9 }), owner: "pod".into() };
    let rules = Rules { slots: Some(slots), ..Rules::default() };
    let (_running, mut incoming, mut peer, _open) = session(rules).await;
    peer.open(1).await;
    peer.open(3).await;
    assert_eq!(peer.reset().await, 3);
    drop(incoming.recv().await.unwrap());
    assert_eq!(peer.reset().await, 1);
    peer.open(5).await;
    assert_eq!(incoming.recv().await.unwrap().stream, 5);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_nothing_for_a_minute_gets_the_end_then() {
    let (running, mut incoming, mut peer, _open) = session(Rules::default()).await;
    peer.open(1).await;
    let mut stream = incoming.recv().await.unwrap();
    let more = vec![7; 2 * PIPE];
    let finish = async {
        stream.writer.write(&more).await.unwrap();
        stream.writer.close().await.unwrap();
        running.finish().await;
    };
    let read = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        let mut data = 0;
        loop {
            while let Some(frame) = peer.decoder.next(&mut peer.input).unwrap() {
                match frame {
                    Frame::Data { bytes, .. } => data += bytes.len(),
                    Frame::GoAway => return data,
                    _ => {}
                }
            }
            assert_ne!(peer.io.read_buf(&mut peer.input).await.unwrap(), 0, "no proper end");
        }
    };
    tokio::select! {
        () = finish => panic!("the peer has not closed"),
        data = read => assert_eq!(data, more.len()),
    }
}

/// With the session's window, which all streams share.
#[tokio::test]
async fn a_writer_that_is_given_up_while_others_send_takes_nothing_of_the_window() {
    let (_running, mut incoming, mut peer, _open) = session_over(Rules::default(), 1024).await;
    let mut announced = Vec::new();
    frame::window_update(&mut announced, 0, 1);
    peer.send(&announced).await;
    let mut writers = Vec::new();
    for stream in [1, 3, 5] {
        peer.open(stream).await;
        writers.push(incoming.recv().await.unwrap().writer);
    }
    let [mut first, mut given_up, mut last]: [_; 3] = writers.try_into().ok().unwrap();
    let first = tokio::spawn(async move { first.write(&[0; 10_000]).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    for _ in 0..3 {
        let write = given_up.write(&[0; 30_000]);
        assert!(tokio::time::timeout(Duration::from_millis(20), write).await.is_err(), "it waits its turn");
    }
    let read = async {
        let mut buffer = [0; 4096];
        while peer.io.read(&mut buffer).await.unwrap() > 0 {}
    };
    tokio::select! {
        written = last.write(&[0; 50_000]) => written.unwrap(),
        () = read => panic!("the end"),
        () = tokio::time::sleep(Duration::from_secs(10)) => panic!("the window is gone"),
    }
    first.await.unwrap().unwrap();
}

/// Other peers answer pings, and take the bytes that are still sent, while they read the end.
#[tokio::test]
async fn a_peer_that_pings_and_sends_after_the_end_is_still_waited_for() {
    let (running, mut incoming, mut peer, _open) = session(Rules::default()).await;
    peer.open(1).await;
    let stream = incoming.recv().await.unwrap();
    drop(stream.reader);
    stream.writer.close().await.unwrap();
    let mut finish = std::pin::pin!(running.finish());
    tokio::select! {
        () = &mut finish => panic!("the peer has not closed"),
        () = peer.until_end() => {}
    }
    let mut ping = Vec::new();
    frame::ping(&mut ping, 1);
    peer.send(&ping).await;
    peer.data(1, &[0; 2 * WINDOW]).await;
    let closed = tokio::time::timeout(Duration::from_millis(300), &mut finish).await;
    assert!(closed.is_err(), "the peer may not have read the end yet");
    drop(peer);
    tokio::time::timeout(Duration::from_secs(10), finish).await.expect("over with the peer");
}

/// The slots of these streams are free again, so their unsent bytes would be outside of every limit.
#[tokio::test]
async fn writers_that_are_dropped_leave_one_frame_behind_at_most() {
    let (_running, mut incoming, mut peer, _open) = session_over(Rules::default(), 64 << 10).await;
    let mut streams = Vec::new();
    for number in 0..20 {
        peer.open(2 * number + 1).await;
        streams.push(incoming.recv().await.unwrap());
    }
    // Waits until the responses are sent, so that only the writers wait for their turn.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut writers = Vec::new();
    for Incoming { stream, reader, mut writer, .. } in streams {
        let task = tokio::spawn(async move {
            tokio::select! {
                _ = writer.write(&[7; 60_000]) => {}
                _ = async { reader.breakage().wait().await } => {}
            }
        });
        writers.push((stream, task));
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    for (stream, task) in writers {
        let mut reset = Vec::new();
        frame::rst_stream(&mut reset, stream, frame::ResetReason::Cancel);
        peer.send(&reset).await;
        task.await.unwrap();
    }
    let mut sent = 0;
    let read = async {
        loop {
            sent += peer.io.read_buf(&mut peer.input).await.unwrap();
        }
    };
    assert!(tokio::time::timeout(Duration::from_millis(300), read).await.is_err());
    // The content of the pipe, and the rest of two frames.
    assert!(sent < 4 * 60_000, "{sent}");
}

#[tokio::test]
async fn writers_of_a_lost_connection_hear_that_it_is_lost_whatever_they_wait_for() {
    let (_running, mut incoming, mut peer, _open) = session_over(Rules::default(), 1024).await;
    peer.open(1).await;
    peer.open(3).await;
    let (mut first, mut second) =
        (incoming.recv().await.unwrap().writer, incoming.recv().await.unwrap().writer);
    let first = tokio::spawn(async move { first.write(&[0; 10_000]).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    // This write waits for its turn.
    let second = tokio::spawn(async move { (second.write(&[0; 10_000]).await, second.close().await) });
    tokio::time::sleep(Duration::from_millis(20)).await;
    drop(peer);
    assert_eq!(first.await.unwrap(), Err(StreamError::Lost));
    assert_eq!(second.await.unwrap(), (Err(StreamError::Lost), Err(StreamError::Lost)));

    let (_running, mut incoming, mut peer, _open) = session(Rules::default()).await;
    peer.window(10).await;
    peer.open(1).await;
    let mut writer = incoming.recv().await.unwrap().writer;
    // This write waits for room in the window.
    let write = tokio::spawn(async move { writer.write(&[0; 20]).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    drop(peer);
    assert_eq!(write.await.unwrap(), Err(StreamError::Lost));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_alone_may_take_nothing_for_longer_than_one_among_others() {
    const PATIENCE: Duration = Duration::from_secs(15);
    let rules = Rules { patience: Some(PATIENCE), ..Rules::default() };
    let (_running, mut incoming, mut peer, _open) = session(rules).await;
    // As a pair.
    peer.open(1).await;
    peer.open(3).await;
    let (_error, mut data) = (incoming.recv().await.unwrap(), incoming.recv().await.unwrap());
    peer.data(3, &[0; 3 * WINDOW]).await;
    tokio::time::sleep(10 * PATIENCE).await;
    let mut left = 3 * WINDOW;
    while left > 0 {
        left -= data.reader.read().await.unwrap().unwrap().len();
    }
}

/// Later frames of its client, including its reset, are not read before that.
#[tokio::test]
async fn a_connection_that_is_alone_and_takes_nothing_is_reset_in_the_end() {
    let rules = Rules { patience: Some(Duration::from_millis(5)), ..Rules::default() };
    let (_running, mut incoming, mut peer, _open) = session(rules).await;
    peer.open(1).await;
    peer.open(3).await;
    let (_error, data) = (incoming.recv().await.unwrap(), incoming.recv().await.unwrap());
    peer.data(3, &[0; 2 * WINDOW]).await;
    let reset = tokio::time::timeout(Duration::from_secs(30), peer.reset()).await;
    assert_eq!(reset.expect("not for ever"), 3);
    assert_eq!(data.reader.breakage().wait().await, StreamError::Reset);
    peer.open(5).await;
    assert_eq!(incoming.recv().await.unwrap().stream, 5);
}

#[tokio::test]
async fn data_after_the_end_of_a_stream_ends_it_for_both() {
    let (_running, mut incoming, mut peer, _open) = session(Rules::default()).await;
    peer.open(1).await;
    let mut writer = incoming.recv().await.unwrap().writer;
    peer.send(&frame::data_head(1, 0, true)).await;
    peer.data(1, b"late").await;
    assert_eq!(peer.reset().await, 1);
    assert_eq!(writer.write(b"x").await, Err(StreamError::Reset));
}

#[tokio::test]
async fn a_number_that_was_used_or_is_not_the_peers_ends_what_it_names() {
    let (_running, mut incoming, mut peer, _open) = session(Rules::default()).await;
    peer.open(3).await;
    let stream = incoming.recv().await.unwrap();
    peer.open(3).await;
    assert_eq!(peer.reset().await, 3);
    assert_eq!(stream.reader.breakage().wait().await, StreamError::Reset);
    for number in [1, 4] {
        peer.open(number).await;
        assert_eq!(peer.reset().await, number);
    }
    peer.data(9, b"x").await;
    assert_eq!(peer.reset().await, 9);
    peer.open(11).await;
    assert_eq!(incoming.recv().await.unwrap().stream, 11);
}

#[tokio::test]
async fn pings_of_the_peer_come_back_and_others_do_not() {
    let (_running, _incoming, mut peer, _open) = session(Rules::default()).await;
    let mut pings = Vec::new();
    for id in [2, 7] {
        frame::ping(&mut pings, id);
    }
    peer.send(&pings).await;
    let first = loop {
        if let Frame::Ping { id } = peer.next().await {
            break id;
        }
    };
    assert_eq!(first, 7);
}

#[tokio::test]
async fn a_stream_that_its_peer_opens_closed_has_nothing_to_read() {
    let (_running, mut incoming, mut peer, _open) = session(Rules::default()).await;
    let mut bytes = Vec::new();
    peer.encoder.syn_stream(&mut bytes, 1, &Headers::default(), true);
    peer.send(&bytes).await;
    assert_eq!(incoming.recv().await.unwrap().reader.read().await, Ok(None));
}

/// A client with one stream, and its server, which has accepted the stream and has no windows
/// (moby/spdystream).
async fn client_of_one_without_windows() -> (Running, (StreamReader, StreamWriter), Peer, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let hangup = transport::prepare(&socket, transport::IdleLimits::default());
    let (served, _) = listener.accept().await.unwrap();
    let (ours, theirs) = tokio::io::duplex(PIPE);
    let (running, _) =
        Running::start(Role::Client, Rules::default(), Box::new(ours), BytesMut::new(), hangup, 1);
    let stream = running.connection().open(&Headers::default(), false).unwrap();
    let (encoder, decoder, input) = (Encoder::default(), Decoder::default(), BytesMut::new());
    let mut peer = Peer { io: theirs, encoder, decoder, input };
    let mut reply = Vec::new();
    peer.encoder.syn_reply(&mut reply, 1);
    peer.send(&reply).await;
    std::mem::forget(socket);
    (running, stream, peer, served)
}

#[tokio::test]
async fn a_client_sends_to_a_server_without_windows_all_it_has() {
    let (_running, (_reader, mut writer), _peer, _open) = client_of_one_without_windows().await;
    let write = tokio::time::timeout(Duration::from_secs(20), writer.write(&[7; 4 * WINDOW])).await;
    write.expect("it waits for a window").unwrap();
}

#[tokio::test]
async fn a_client_that_is_slow_gets_all_from_a_server_without_windows() {
    let (_running, (mut reader, _writer), mut peer, _open) = client_of_one_without_windows().await;
    peer.data(1, &[8; 4 * WINDOW]).await;
    peer.send(&frame::data_head(1, 0, true)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut left = 4 * WINDOW;
    while left > 0 {
        left -= reader.read().await.unwrap().unwrap().len();
    }
    assert_eq!(reader.read().await, Ok(None));
}
