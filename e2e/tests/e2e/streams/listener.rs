//! Requests to the listener of streams that become no session.

use std::io::Write as _;
use std::time::{Duration, Instant};

use crisp_e2e::link::Endpoint;
use crisp_e2e::session::{Process, Protocol};
use crisp_e2e::{Lab, Result, needs};

use super::hostile::{as_before, is_alive, until_closed, warmed_up};
use super::protocols::{PIPES, exec_url};

/// Sends the beginning of a request and then one byte after the other, until the server closes the connection; returns
/// the time.
fn drip(endpoint: Endpoint<'_>) -> Result<Duration> {
    let mut link = endpoint.connect()?;
    let begun = Instant::now();
    link.write_all(b"POST / HTTP/1.1\r\nX-Long: ")?;
    while begun.elapsed() < Duration::from_secs(20) {
        // A closed connection is reset by the first byte, and the second one cannot be sent.
        if link.write_all(b"x").is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(begun.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_takes_no_endless_head_and_serves_others_meanwhile() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("heads").await?;
    let id = lab.client.launch(&pod, &lab.shell("exec sleep 1000"), &sandbox).await?;
    let before = warmed_up(&mut lab, &id).await?;
    let url = exec_url(&mut lab, &id, "true", PIPES).await?;
    let dripping = {
        let url = url.clone();
        std::thread::spawn(move || drip(Endpoint::from(&url)))
    };
    let long_line = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20 << 10));
    let long_header = format!("GET / HTTP/1.1\r\nX-Long: {}\r\n\r\n", "x".repeat(20 << 10));
    let many_headers = format!("GET / HTTP/1.1\r\n{}\r\n", "X-Many: x\r\n".repeat(2000));
    let garbage = "\u{ff}".repeat(500);
    for request in [long_line, long_header, many_headers, garbage] {
        let mut link = Endpoint::from(&url).connect()?;
        let begun = Instant::now();
        // The server may close before it has all of it.
        let _ = link.write_all(request.as_bytes());
        let response = until_closed(&mut *link)?;
        let response = String::from_utf8_lossy(&response);
        let shown: String = request.chars().take(30).collect();
        assert!(response.is_empty() || response.starts_with("HTTP/1.1 4"), "{shown:?}: {response}");
        assert!(begun.elapsed() < Duration::from_secs(4), "{shown:?}: closed after {:?}", begun.elapsed());
        is_alive(&mut lab, &id, Protocol::WebSocketV5, &shown).await?;
    }
    let passed = dripping.join().map_err(|_| "the thread panicked")??;
    println!("a head that drips: closed after {passed:?}");
    assert!((Duration::from_secs(4)..Duration::from_secs(8)).contains(&passed), "{passed:?}");
    // None of it has used the URL up.
    let mut process = Process::open(&url, Protocol::Spdy, PIPES)?;
    assert_eq!(process.exit_code()?, 0);
    drop(process);
    as_before(&lab, before).await?;
    lab.close().await
}
