//! The settings of the streaming server: its certificate and its address.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crisp_e2e::link::Endpoint;
use crisp_e2e::pod_server::{PodServer, Service};
use crisp_e2e::session::{Channel, Forward, ForwardProtocol, Process, Protocol};
use crisp_e2e::{Lab, Result, Setup, free_port, needs};

use super::protocols::{PIPES, exec_url, forward_url};

/// Makes NAME.crt and NAME.key, for these addresses of a server; returns their paths.
pub fn certificate(folder: &Path, name: &str, addresses: &[&str]) -> Result<(String, String)> {
    let path = |kind: &str| folder.join(format!("{name}.{kind}")).display().to_string();
    let (certificate, key, config) = (path("crt"), path("key"), path("cnf"));
    let names: Vec<String> = addresses.iter().map(|address| format!("IP:{address}")).collect();
    let names =
        if names.is_empty() { String::new() } else { format!("subjectAltName = {}\n", names.join(",")) };
    std::fs::write(
        &config,
        format!(
            "[req]\nprompt = no\ndistinguished_name = name\nx509_extensions = own\n[name]\nCN = {name}\n\
             [own]\nbasicConstraints = critical,CA:FALSE\n{names}"
        ),
    )?;
    let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1";
    let mut openssl = Command::new("openssl");
    openssl.args(words.split(' ')).args(["-config", &config, "-keyout", &key, "-out", &certificate]);
    let output = openssl.output()?;
    if !output.status.success() {
        return Err(format!("openssl: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok((certificate, key))
}

/// Sends a line to `cat`, and waits until it comes back.
fn echoes(process: &mut Process, line: &str) -> Result<()> {
    process.send(Channel::Stdin, line.as_bytes())?;
    process.until(|process| process.text(Channel::Stdout).ends_with(line))
}

const TLS_PROTOCOLS: [Protocol; 2] = [Protocol::SpdyV4, Protocol::WebSocketV5];

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_certificate_is_used_for_new_sessions_and_old_ones_go_on() -> Result<()> {
    needs!("docker-registry", "busybox", "openssl");
    let keys = tempfile::tempdir()?;
    let (first, _) = certificate(keys.path(), "first", &["127.0.0.1"])?;
    let (second, _) = certificate(keys.path(), "second", &["127.0.0.1"])?;
    // Each file is replaced at once, but not both together.
    let serve = |name: &str| -> Result<()> {
        for kind in ["crt", "key"] {
            let path = |name: &str| keys.path().join(format!("{name}.{kind}"));
            std::fs::copy(path(name), path("new"))?;
            std::fs::rename(path("new"), path("served"))?;
        }
        Ok(())
    };
    serve("first")?;
    let served = |kind: &str| keys.path().join(format!("served.{kind}")).display().to_string();
    let args = ["--stream-cert", &served("crt"), "--stream-key", &served("key")].map(str::to_owned).to_vec();
    let mut lab = Lab::start_with(Setup { args, ..Setup::default() }).await?;
    let (sandbox, pod) = lab.pod("replaced").await?;
    let id = lab.client.launch(&pod, &lab.shell("exec sleep 1000"), &sandbox).await?;
    let [first, second] = [std::fs::read_to_string(first)?, std::fs::read_to_string(second)?];
    let mut old = Vec::new();
    for protocol in TLS_PROTOCOLS {
        let url = exec_url(&mut lab, &id, "cat; exit 6", PIPES).await?;
        assert!(url.starts_with("https://127.0.0.1:"), "{url}");
        let mut process = Process::open(Endpoint { url: &url, trusted: Some(&first) }, protocol, PIPES)?;
        echoes(&mut process, "before\n")?;
        old.push(process);
    }
    serve("second")?;
    let begun = Instant::now();
    for protocol in TLS_PROTOCOLS {
        let url = exec_url(&mut lab, &id, "cat; exit 7", PIPES).await?;
        // The server looks at its files every five seconds.
        let mut process = loop {
            match Process::open(Endpoint { url: &url, trusted: Some(&second) }, protocol, PIPES) {
                Ok(process) => break process,
                Err(error) if begun.elapsed() > Duration::from_secs(15) => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        };
        echoes(&mut process, "new\n")?;
        process.close_stdin()?;
        assert_eq!(process.exit_code()?, 7, "{protocol:?}");
    }
    let _echo = PodServer::start(&lab.machine, &pod, 8081, Service::Echo)?;
    for protocol in ForwardProtocol::ALL {
        let url = forward_url(&mut lab, &pod, 8081).await?;
        let endpoint = Endpoint { url: &url, trusted: Some(&second) };
        let mut forward = Forward::open(endpoint, protocol, 8081)?;
        forward.send(b"over TLS")?;
        forward.until(|forward| forward.data() == b"over TLS")?;
    }
    let url = exec_url(&mut lab, &id, "cat", PIPES).await?;
    let refused = Process::open(Endpoint { url: &url, trusted: Some(&first) }, Protocol::WebSocketV5, PIPES);
    let refused = refused.err().ok_or("the old certificate is still served")?.to_string();
    assert!(refused.contains("certificate"), "{refused}");
    for mut process in old {
        echoes(&mut process, "after\n")?;
        process.close_stdin()?;
        assert_eq!(process.exit_code()?, 6);
        assert_eq!(process.text(Channel::Stdout), "before\nafter\n");
    }
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_served_at_the_address_of_the_setting() -> Result<()> {
    needs!("docker-registry", "busybox");
    // The last one on any free port.
    for (address, port) in [("127.0.0.7", free_port()?), ("[::1]", free_port()?), ("[::1]", 0)] {
        let listen = format!("{address}:{port}");
        let args = vec!["--stream-listen".to_owned(), listen.clone()];
        let mut lab = Lab::start_with(Setup { args, ..Setup::default() }).await?;
        let (sandbox, pod) = lab.pod("address").await?;
        let id = lab.client.launch(&pod, &lab.shell("exec sleep 1000"), &sandbox).await?;
        for protocol in Protocol::USUAL {
            let url = exec_url(&mut lab, &id, "echo here; exit 3", PIPES).await?;
            let authority = url.split('/').nth(2).ok_or("no address")?;
            let served: u16 = authority.strip_prefix(&format!("{address}:")).ok_or(authority)?.parse()?;
            assert!(served != 0 && (port == 0 || served == port), "{url}");
            let mut process = Process::open(&url, protocol, PIPES)?;
            assert_eq!(process.exit_code()?, 3);
            assert_eq!(process.text(Channel::Stdout), "here\n");
        }
        let command = lab.machine.crisp(&["exec", &id, "echo", "here"])?;
        assert_eq!((command.stdout.as_slice(), command.status.code()), (&b"here\n"[..], Some(0)), "{listen}");
        lab.close().await?;
    }
    Ok(())
}
