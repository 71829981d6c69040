//! Input that breaks a protocol, to sessions with processes of a container. Each ends its own session, with all that it
//! has started, and no other.

use std::io::{ErrorKind, Read as _, Write as _};
use std::time::{Duration, Instant};

use crisp_e2e::link::{Endpoint, Link};
use crisp_e2e::pod_server::{PodServer, Service};
use crisp_e2e::session::{Channel, Forward, ForwardProtocol, Protocol};
use crisp_e2e::spdy::{Event, Session};
use crisp_e2e::standalone::processes_with;
use crisp_e2e::{Lab, Result, needs};

use super::broken::{broken_frames, broken_spdy, long_frame};
use super::held::{Held, is_alive};
use super::protocols::{PIPES, exec, exec_url, forward_url};

const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// A session that is not ended so soon stays.
const SOON: Duration = Duration::from_secs(10);

/// Reads until the server closes the connection; returns the bytes.
pub fn until_closed(link: &mut dyn Link) -> Result<Vec<u8>> {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match link.read(&mut buffer) {
            Ok(0) => return Ok(all),
            Ok(bytes) => all.extend_from_slice(&buffer[..bytes]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(all),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until a process has this argument.
pub async fn runs(argument: &str) {
    let begun = Instant::now();
    while processes_with(argument).is_empty() {
        assert!(begun.elapsed() < SOON, "the process of the session does not start");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until no process has this argument.
async fn is_gone(argument: &str, what: &str) {
    let begun = Instant::now();
    while !processes_with(argument).is_empty() {
        assert!(begun.elapsed() < SOON, "{what}: the process of the session is still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The number of a sleep that no other test has, by which its process is found.
fn unique(number: usize) -> String {
    format!("8{:05}.{number}", std::process::id() % 100_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_websocket_ends_its_session_and_its_process_and_no_other() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("broken-websocket").await?;
    let id = lab.client.launch(&pod, &lab.shell("exec sleep 1000"), &sandbox).await?;
    let before = Held::warmed_up(&mut lab, &pod, &id).await?;
    let mut witness = exec(&mut lab, &id, "cat; exit 3", Protocol::WebSocketV5, PIPES).await?;
    for (number, (what, bytes)) in broken_frames().into_iter().enumerate() {
        for protocol in ["v4.channel.k8s.io", "v5.channel.k8s.io"] {
            let sleep = unique(number);
            let url = exec_url(&mut lab, &id, &format!("echo up; exec sleep {sleep}"), PIPES).await?;
            let endpoint = Endpoint::from(&url);
            let mut link = endpoint.upgrade(&endpoint.websocket_request(protocol)?, protocol)?;
            let mut seen = Vec::new();
            while !seen.windows(4).any(|bytes| bytes == b"\x01up\n") {
                let mut byte = [0];
                link.read_exact(&mut byte)?;
                seen.push(byte[0]);
            }
            runs(&sleep).await;
            let begun = Instant::now();
            link.write_all(&bytes)?;
            let rest = until_closed(&mut *link)?;
            assert!(begun.elapsed() < SOON, "{what}: closed after {:?}", begun.elapsed());
            let rest = String::from_utf8_lossy(&rest);
            assert!(!rest.contains("Success") && !rest.contains("ExitCode"), "{what}: {rest}");
            is_gone(&sleep, what).await;
        }
        is_alive(&mut lab, &id, Protocol::WebSocketV4, what).await?;
    }
    witness.send(Channel::Stdin, b"still here")?;
    witness.close_stdin()?;
    assert_eq!((witness.exit_code()?, witness.text(Channel::Stdout).as_str()), (3, "still here"));
    drop(witness);
    before.again(&lab).await?;
    lab.close().await
}

/// A client that dies within a message, and one that only half closes its connection within one.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_cut_short_ends_its_session_when_the_client_leaves() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("cut-short").await?;
    let id = lab.client.launch(&pod, &lab.shell("exec sleep 1000"), &sandbox).await?;
    let whole = [&long_frame(1000)[..], &[0; 500]].concat();
    for (number, length) in [1, 2, 9, 14, 100, whole.len()].into_iter().enumerate() {
        let sleep = unique(100 + number);
        let url = exec_url(&mut lab, &id, &format!("echo up; exec sleep {sleep}"), PIPES).await?;
        let protocol = "v5.channel.k8s.io";
        let endpoint = Endpoint::from(&url);
        let mut link = endpoint.upgrade(&endpoint.websocket_request(protocol)?, protocol)?;
        let mut seen = [0; 9];
        link.read_exact(&mut seen)?;
        runs(&sleep).await;
        link.write_all(&whole[..length])?;
        drop(link);
        is_gone(&sleep, &format!("{length} bytes")).await;
    }
    is_alive(&mut lab, &id, Protocol::WebSocketV5, "afterwards").await?;
    lab.close().await
}

/// Other servers of Kubernetes pass over messages for channels that do not exist, too.
#[tokio::test(flavor = "multi_thread")]
async fn messages_for_channels_that_do_not_exist_reach_no_stream() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("channels").await?;
    let id = lab.client.launch(&pod, &lab.shell("exec sleep 1000"), &sandbox).await?;
    for protocol in ["v4.channel.k8s.io", "v5.channel.k8s.io"] {
        let url = exec_url(&mut lab, &id, "head -c 5; exit 2", PIPES).await?;
        let mut socket = Endpoint::from(&url).websocket(protocol)?;
        // Channels of the server, the size of a terminal that there is not, unknown channels, closes of unknown
        // channels, and a message without a channel.
        for message in
            [&b"\x01out"[..], b"\x02err", b"\x03{}", b"\x04{}", b"\x05", b"\x80x", b"\xff\x09", b"\xff", b""]
        {
            socket.send(tokio_tungstenite::tungstenite::Message::binary(message.to_vec()))?;
        }
        socket.send(tokio_tungstenite::tungstenite::Message::binary(b"\0input".to_vec()))?;
        let mut heard: [String; 4] = Default::default();
        while let Ok(message) = socket.read() {
            if message.is_close() {
                break;
            }
            let bytes = message.into_data();
            heard[usize::from(bytes[0])].push_str(&String::from_utf8_lossy(&bytes[1..]));
        }
        let [stdin, stdout, stderr, status] = &heard;
        assert_eq!((stdin.as_str(), stdout.as_str(), stderr.as_str()), ("", "input", ""), "{protocol}");
        assert!(status.contains(r#""message":"2""#), "{protocol}: {status}");
    }
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_spdy_session_ends_with_its_process_and_no_other() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("broken-spdy").await?;
    let id = lab.client.launch(&pod, &lab.shell("exec sleep 1000"), &sandbox).await?;
    let before = Held::warmed_up(&mut lab, &pod, &id).await?;
    for (number, (what, bytes)) in broken_spdy()?.into_iter().enumerate() {
        let sleep = unique(200 + number);
        let line = format!("echo up; exec sleep {sleep}");
        let mut process = exec(&mut lab, &id, &line, Protocol::SpdyV4, PIPES).await?;
        process.until(|process| process.text(Channel::Stdout) == "up\n")?;
        runs(&sleep).await;
        let begun = Instant::now();
        process.send_raw(&bytes)?;
        process.until_closed().map_err(|error| format!("{what}: {error}"))?;
        assert!(begun.elapsed() < SOON, "{what}: closed after {:?}", begun.elapsed());
        assert!(process.exit_code().is_err(), "{what}: a broken session has an exit code");
        is_gone(&sleep, what).await;
        is_alive(&mut lab, &id, Protocol::SpdyV4, what).await?;
    }
    before.again(&lab).await?;
    lab.close().await
}

/// In the tunnel of a WebSocket too. The connections to the pod end with the session.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_session_that_forwards_ports_ends_with_its_connections() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("broken-forward").await?;
    let id = lab.client.launch(&pod, &lab.shell("exec sleep 1000"), &sandbox).await?;
    let before = Held::warmed_up(&mut lab, &pod, &id).await?;
    let server = PodServer::start(&lab.machine, &pod, 8080, Service::Echo)?;
    let url = forward_url(&mut lab, &pod, 8080).await?;
    let mut witness = Forward::open(&url, ForwardProtocol::Spdy, 8080)?;
    witness.send(b"first")?;
    witness.until(|witness| witness.data() == b"first")?;
    for protocol in ForwardProtocol::ALL {
        let cases = match protocol {
            ForwardProtocol::WebSocketV4 | ForwardProtocol::Base64V4 => broken_frames(),
            ForwardProtocol::Spdy | ForwardProtocol::Tunnel => broken_spdy()?,
        };
        for (what, bytes) in cases {
            let what = format!("{protocol:?}: {what}");
            let mut forward = Forward::open(&forward_url(&mut lab, &pod, 8080).await?, protocol, 8080)?;
            forward.send(b"x")?;
            forward.until(|forward| forward.data() == b"x")?;
            let begun = Instant::now();
            forward.send_raw(&bytes)?;
            forward.until_closed().map_err(|error| format!("{what}: {error}"))?;
            assert!(begun.elapsed() < SOON, "{what}: closed after {:?}", begun.elapsed());
            while server.open() > 1 {
                assert!(begun.elapsed() < SOON, "{what}: {} connections are open", server.open());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    // A tunnel whose own messages are broken.
    for (what, bytes) in broken_frames() {
        let url = forward_url(&mut lab, &pod, 8080).await?;
        let endpoint = Endpoint::from(&url);
        let mut link = endpoint.upgrade(&endpoint.websocket_request(TUNNEL)?, TUNNEL)?;
        let begun = Instant::now();
        link.write_all(&bytes)?;
        until_closed(&mut *link)?;
        assert!(begun.elapsed() < SOON, "{what}: closed after {:?}", begun.elapsed());
    }
    witness.send(b", second")?;
    witness.until(|witness| witness.data() == b"first, second")?;
    drop((witness, server));
    before.again(&lab).await?;
    lab.close().await
}

/// Opens a connection of a session that forwards ports; returns the number of its data stream.
fn connected(session: &mut Session, number: &str) -> Result<u32> {
    session.stream(&pair("error", number), true)?;
    let data = session.stream(&pair("data", number), false)?;
    echoes(session, data, b"first")?;
    Ok(data)
}

fn pair<'a>(kind: &'a str, number: &'a str) -> [(&'a str, &'a str); 3] {
    [("streamtype", kind), ("port", "8080"), ("requestid", number)]
}

/// Sends bytes, which must come back, and no other data.
fn echoes(session: &mut Session, stream: u32, bytes: &[u8]) -> Result<()> {
    session.write(stream, bytes)?;
    assert_eq!(next(session)?, Event::Data { stream, bytes: bytes.len() });
    assert_eq!(session.data(), bytes);
    Ok(())
}

/// The next event, without the ends of error streams.
fn next(session: &mut Session) -> Result<Event> {
    loop {
        match session.event()? {
            Event::End { .. } => {}
            event => return Ok(event),
        }
    }
}

/// A client may use a number once, and only odd ones. The header blocks are read nevertheless: without them, those that
/// come later could not be.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_with_a_number_that_it_may_not_have_is_reset_and_the_session_goes_on() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (_, pod) = lab.pod("numbers").await?;
    let server = PodServer::start(&lab.machine, &pod, 8080, Service::Echo)?;
    let mut session = Session::open(&forward_url(&mut lab, &pod, 8080).await?, "portforward.k8s.io")?;
    let (first, second) = (connected(&mut session, "0")?, connected(&mut session, "1")?);
    // Stream numbers of the other side, of an open stream, of a reset stream, and one that was passed over.
    session.stream_with(999, &pair("error", "2"), true)?;
    for number in [100, first, first, 501] {
        session.stream_with(number, &pair("data", "2"), false)?;
        assert_eq!(next(&mut session)?, Event::Reset { stream: number });
        echoes(&mut session, second, b"unharmed")?;
    }
    let begun = Instant::now();
    while server.open() > 1 {
        assert!(begun.elapsed() < SOON, "the connection of a stream whose number is used again stays open");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    session.stream_with(1001, &pair("data", "2"), false)?;
    echoes(&mut session, 1001, b"the partner of the error stream before")?;
    echoes(&mut session, second, b"unharmed")?;
    assert_eq!((server.accepted(), server.open()), (3, 2));
    drop((session, server));
    lab.close().await
}
