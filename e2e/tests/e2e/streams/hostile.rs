//! Input that breaks a protocol, to sessions with processes of a container. Each ends its own session, with all that it
//! has started, and no other.

use std::io::{ErrorKind, Read as _, Write as _};
use std::time::{Duration, Instant};

use crisp_e2e::link::{Endpoint, Link};
use crisp_e2e::pod_server::{PodServer, Service};
use crisp_e2e::session::{Channel, Forward, ForwardProtocol, Protocol};
use crisp_e2e::standalone::processes_with;
use crisp_e2e::{Lab, Result, needs};
use flate2::{Compress, Compression, FlushCompress};

use super::protocols::{PIPES, exec, exec_url, forward_url};

const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// A session that is not ended so soon stays.
const SOON: Duration = Duration::from_secs(10);
/// The mask of all frames: bytes stay as they are.
const MASK: [u8; 4] = [0; 4];

/// A frame of a WebSocket with a length below 126.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("a short frame");
    [&[first, 0x80 | length][..], &MASK, payload].concat()
}

/// The head of a binary message with this length.
fn long_frame(length: u64) -> Vec<u8> {
    [&[0x82, 0xff][..], &length.to_be_bytes(), &MASK].concat()
}

/// Bytes that break a WebSocket.
fn broken_frames() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("garbage", vec![0xff; 64]),
        ("not masked", vec![0x82, 2, 0, b'x']),
        ("a reserved opcode of data", frame(0x83, b"")),
        ("a reserved opcode of control", frame(0x8b, b"")),
        ("a reserved bit", frame(0xc2, b"\0x")),
        ("a control frame in pieces", frame(0x09, b"ping")),
        ("a control frame that is too long", [&[0x89, 0xfe, 0, 126][..], &MASK, &[0; 126]].concat()),
        ("the rest of no message", frame(0x80, b"\0x")),
        ("a message within another", [frame(0x02, b"\0x"), frame(0x82, b"\0y")].concat()),
        ("text that is not UTF-8", frame(0x81, b"\xff\xfe")),
        ("a message of 33 MiB", long_frame(33 << 20)),
        ("a message of absurd length", long_frame(u64::MAX >> 1)),
    ]
}

/// A SYN_STREAM frame with this compressed block.
fn syn_stream(stream: u32, block: &[u8]) -> Vec<u8> {
    let length = u32::try_from(10 + block.len()).expect("a short frame").to_be_bytes();
    let head = [&[0x80, 3, 0, 1, 0][..], &length[1..], &stream.to_be_bytes(), &[0; 6]].concat();
    [head, block.to_vec()].concat()
}

/// A header block, behind the first one of a connection, that inflates to eight megabytes.
fn bomb() -> Result<Vec<u8>> {
    const LENGTH: u32 = 8 << 20;
    let mut text = [1_u32, 4].map(u32::to_be_bytes).concat();
    text.extend_from_slice(b"name");
    text.extend_from_slice(&LENGTH.to_be_bytes());
    text.resize(text.len() + LENGTH as usize, 0);
    let mut block = Vec::with_capacity(64 << 10);
    Compress::new(Compression::best(), false).compress_vec(&text, &mut block, FlushCompress::Sync)?;
    assert!(block.len() < 15_000, "{} bytes are more than a frame may have", block.len());
    Ok(block)
}

/// Bytes that break a SPDY session with open streams.
fn broken_spdy() -> Result<Vec<(&'static str, Vec<u8>)>> {
    Ok(vec![
        ("a control frame that is too long", vec![0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]),
        ("another version", vec![0x80, 2, 0, 1, 0, 0, 0, 10, 0, 0, 0, 101, 0, 0, 0, 0, 0, 0]),
        ("a header block that is not compressed", syn_stream(101, &[0xff; 40])),
        ("a header block that inflates without a limit", syn_stream(101, &bomb()?)),
        ("a frame that is cut short", vec![0x80, 3, 0, 1, 0, 0, 0, 2, 0, 0]),
    ])
}

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
async fn runs(argument: &str) {
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

/// The server serves another session.
pub async fn is_alive(lab: &mut Lab, id: &str, protocol: Protocol, what: &str) -> Result<()> {
    let mut process = exec(lab, id, "echo alive", protocol, PIPES).await?;
    assert_eq!((process.exit_code()?, process.text(Channel::Stdout).as_str()), (0, "alive\n"), "{what}");
    Ok(())
}

/// The number of a sleep that no other test has, by which its process is found.
fn unique(number: usize) -> String {
    format!("8{:05}.{number}", std::process::id() % 100_000)
}

fn descriptors(lab: &Lab) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{}/fd", lab.machine.server_pid()))?.count())
}

/// Waits until the server has no more descriptors than before.
pub async fn as_before(lab: &Lab, before: usize) -> Result<()> {
    let begun = Instant::now();
    while descriptors(lab)? > before {
        let now = descriptors(lab)?;
        assert!(begun.elapsed() < Duration::from_secs(20), "{before} descriptors before, {now} after");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// The descriptors of a server that has served a session of each protocol.
pub async fn warmed_up(lab: &mut Lab, id: &str) -> Result<usize> {
    for protocol in Protocol::ALL {
        is_alive(lab, id, protocol, "before").await?;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    descriptors(lab)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_websocket_ends_its_session_and_its_process_and_no_other() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("broken-websocket").await?;
    let id = lab.client.launch(&pod, &lab.shell("exec sleep 1000"), &sandbox).await?;
    let before = warmed_up(&mut lab, &id).await?;
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
    as_before(&lab, before).await?;
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
        // Of the server, of a terminal that there is not, of none, closes of none, and no channel at all.
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
    let before = warmed_up(&mut lab, &id).await?;
    for (number, (what, bytes)) in broken_spdy()?.into_iter().enumerate() {
        let sleep = unique(200 + number);
        let line = format!("echo up; exec sleep {sleep}");
        let mut process = exec(&mut lab, &id, &line, Protocol::Spdy, PIPES).await?;
        process.until(|process| process.text(Channel::Stdout) == "up\n")?;
        runs(&sleep).await;
        let begun = Instant::now();
        process.send_raw(&bytes)?;
        assert!(process.exit_code().is_err(), "{what}: a broken session has an exit code");
        assert!(begun.elapsed() < SOON, "{what}: closed after {:?}", begun.elapsed());
        is_gone(&sleep, what).await;
        is_alive(&mut lab, &id, Protocol::Spdy, what).await?;
    }
    as_before(&lab, before).await?;
    lab.close().await
}

/// In the tunnel of a WebSocket too. The connections to the pod end with the session.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_session_that_forwards_ports_ends_with_its_connections() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (_, pod) = lab.pod("broken-forward").await?;
    let server = PodServer::start(&lab.machine, &pod, 8080, Service::Echo)?;
    let url = forward_url(&mut lab, &pod, 8080).await?;
    let mut witness = Forward::open(&url, ForwardProtocol::Spdy, 8080)?;
    witness.send(b"first")?;
    witness.until(|witness| witness.data() == b"first")?;
    for protocol in ForwardProtocol::ALL {
        let cases = match protocol {
            ForwardProtocol::WebSocketV4 => broken_frames(),
            ForwardProtocol::Spdy | ForwardProtocol::Tunnel => broken_spdy()?,
        };
        for (what, bytes) in cases {
            let what = format!("{protocol:?}: {what}");
            let mut forward = Forward::open(&forward_url(&mut lab, &pod, 8080).await?, protocol, 8080)?;
            forward.send(b"x")?;
            forward.until(|forward| forward.data() == b"x")?;
            let begun = Instant::now();
            forward.send_raw(&bytes)?;
            // The connection is closed, or reset.
            let _ = forward.to_end();
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
    lab.close().await
}
