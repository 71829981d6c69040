//! Requests to the listener of streams that become no session.

use std::io::Write as _;
use std::time::{Duration, Instant};

use crisp_e2e::link::Endpoint;
use crisp_e2e::session::{Process, Protocol};
use crisp_e2e::{Lab, Result, needs};

use super::held::{Held, is_alive};
use super::hostile::until_closed;
use super::protocols::{PIPES, exec_url};

/// Sends the beginning of a request for a session and then one byte after the other, until the server closes the
/// connection; returns the time.
fn drip(endpoint: Endpoint<'_>, request: &str) -> Result<Duration> {
    let mut link = endpoint.connect()?;
    let begun = Instant::now();
    link.write_all(format!("{}\r\nX-Long: ", request.trim_end()).as_bytes())?;
    while begun.elapsed() < Duration::from_secs(20) {
        // A closed connection is reset by the first byte, and the second one cannot be sent.
        if link.write_all(b"x").is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(begun.elapsed())
}

/// Requests that are too long, and bytes that are not a request. The first three would be good without what is too long.
fn bad_requests(good: &str) -> Vec<(&'static str, Vec<u8>)> {
    let (line, rest) = good.split_once(" HTTP/1.1\r\n").expect("a request");
    let long = "x".repeat(20 << 10);
    vec![
        ("a long line", format!("{line}?{long} HTTP/1.1\r\n{rest}").into_bytes()),
        ("a long header", format!("{line} HTTP/1.1\r\nX-Long: {long}\r\n{rest}").into_bytes()),
        ("many headers", format!("{line} HTTP/1.1\r\n{}{rest}", "X-Many: x\r\n".repeat(2000)).into_bytes()),
        ("garbage", vec![0xff; 500]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_takes_no_endless_head_and_serves_others_meanwhile() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("heads").await?;
    let id = lab.client.launch(&pod, &lab.shell("exec sleep 1000"), &sandbox).await?;
    let before = Held::warmed_up(&mut lab, &pod, &id).await?;
    let url = exec_url(&mut lab, &id, "true", PIPES).await?;
    let good = Endpoint::from(&url).spdy_request("v4.channel.k8s.io")?;
    let dripping = {
        let (url, good) = (url.clone(), good.clone());
        std::thread::spawn(move || drip(Endpoint::from(&url), &good))
    };
    for (what, request) in bad_requests(&good) {
        let mut link = Endpoint::from(&url).connect()?;
        let begun = Instant::now();
        // The server may close before it has all of it.
        let _ = link.write_all(&request);
        let response = until_closed(&mut *link)?;
        let response = String::from_utf8_lossy(&response);
        assert!(response.starts_with("HTTP/1.1 4"), "{what}: {response:?}");
        assert!(begun.elapsed() < Duration::from_secs(4), "{what}: closed after {:?}", begun.elapsed());
        is_alive(&mut lab, &id, Protocol::WebSocketV5, what).await?;
    }
    let passed = dripping.join().map_err(|_| "the thread panicked")??;
    println!("a head that drips: closed after {passed:?}");
    assert!((Duration::from_secs(4)..Duration::from_secs(15)).contains(&passed), "{passed:?}");
    // None of it has used the URL up.
    let mut process = Process::open(&url, Protocol::SpdyV4, PIPES)?;
    assert_eq!(process.exit_code()?, 0);
    drop(process);
    before.again(&lab).await?;
    lab.close().await
}
