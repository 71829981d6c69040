//! `crisp port-forward`.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crisp_e2e::pod_server::{PodServer, Service};
use crisp_e2e::{Lab, Result, needs};

use crate::cli_streams::command;

/// The errors of a connection that has ended too early.
const ENDS: [ErrorKind; 3] = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];

/// Starts `crisp port-forward`; returns it with the local ports.
pub fn forwards(lab: &Lab, pod: &str, ports: &[&str]) -> Result<(Child, Vec<u16>)> {
    let args = [&["port-forward", pod], ports].concat();
    let mut forward = command(lab, &args).stderr(Stdio::null()).spawn()?;
    let mut output = std::io::BufReader::new(forward.stdout.take().ok_or("no output")?);
    let mut local = Vec::new();
    for _ in ports {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut output, &mut line)?;
        local.push(line.split([':', ' ']).nth(1).ok_or("no port")?.parse()?);
    }
    Ok((forward, local))
}

pub fn connect(port: u16) -> Result<TcpStream> {
    let socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(socket)
}

/// Waits until the container's programs listen.
async fn listens(lab: &mut Lab, id: &str, ports: &[u16]) -> Result<()> {
    for port in ports {
        lab.client.until(id, &format!("busybox netstat -ltn | grep -q ':{port} '")).await?;
    }
    Ok(())
}

/// Connects, sends `request`, and waits for the response. Each connection must be served: the pod's server accepts all.
fn answered(port: u16, request: &[u8], response: &mut [u8]) -> std::io::Result<TcpStream> {
    let mut socket = connect(port).map_err(std::io::Error::other)?;
    socket.write_all(request)?;
    socket.read_exact(response)?;
    Ok(socket)
}

/// Sends a text, which must come back.
fn query(socket: &mut TcpStream, text: &str) -> std::io::Result<()> {
    socket.write_all(text.as_bytes())?;
    let mut back = vec![0; text.len()];
    socket.read_exact(&mut back)?;
    assert!(back == text.as_bytes(), "another connection's bytes");
    Ok(())
}

/// Waits until the pod's server has no open connection.
async fn none_is_open(server: &PodServer) {
    let begun = Instant::now();
    while server.open() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "{} connections are open", server.open());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forward_outlives_any_number_of_connections_that_break() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (_, pod) = lab.pod("cli-forward").await?;
    // Each client gets endless output and does not read it.
    let endless = PodServer::start(&lab.machine, &pod, 8080, Service::Endless)?;
    let echo = PodServer::start(&lab.machine, &pod, 8081, Service::Echo)?;
    let (mut forward, ports) = forwards(&lab, &pod, &["0:8080", "0:8081"])?;
    for round in 0..600 {
        answered(ports[0], b"", &mut [0; 2]).map_err(|error| format!("connection {round}: {error}"))?;
    }
    let mut back = [0; 5];
    drop(answered(ports[1], b"hello", &mut back)?);
    assert_eq!(&back, b"hello");
    none_is_open(&endless).await;
    none_is_open(&echo).await;
    assert_eq!((endless.accepted(), echo.accepted()), (600, 1));
    forward.kill()?;
    forward.wait()?;
    drop((endless, echo));
    lab.close().await
}

/// Like a database benchmark: many connections at once, short requests and responses, some of them broken in
/// the middle.
#[tokio::test(flavor = "multi_thread")]
async fn many_clients_of_a_database_share_a_forward_though_some_break() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (_, pod) = lab.pod("cli-database").await?;
    let database = PodServer::start(&lab.machine, &pod, 5432, Service::Echo)?;
    let (mut forward, ports) = forwards(&lab, &pod, &["0:5432"])?;
    let port = ports[0];
    let client = move |number: usize| -> std::io::Result<()> {
        for round in 0..10 {
            let mut socket = answered(port, b"?", &mut [0])?;
            for query in 0..50 {
                let text = format!("{number}-{round}-{query};{}", "x".repeat(query * 37));
                if number.is_multiple_of(4) && query == 20 {
                    // A connection with unread bytes ends with a reset.
                    socket.write_all(text.as_bytes())?;
                    break;
                }
                self::query(&mut socket, &text)?;
            }
        }
        Ok(())
    };
    let clients: Vec<_> = (0..16).map(|number| std::thread::spawn(move || client(number))).collect();
    for client in clients {
        client.join().map_err(|_| "a client failed")??;
    }
    assert!(forward.try_wait()?.is_none(), "the forward has ended");
    none_is_open(&database).await;
    assert_eq!(database.accepted(), 160);
    forward.kill()?;
    forward.wait()?;
    drop(database);
    lab.close().await
}

/// Like a database that ends some of its clients, in the middle of their queries.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_a_database_resets_leave_the_others_of_their_forward_unharmed() -> Result<()> {
    needs!("docker-registry", "busybox");
    const EVERY: usize = 4;
    let mut lab = Lab::start().await?;
    let (_, pod) = lab.pod("cli-resets").await?;
    let database = PodServer::start(&lab.machine, &pod, 5432, Service::EchoWithResets(EVERY))?;
    let (mut forward, ports) = forwards(&lab, &pod, &["0:5432"])?;
    let port = ports[0];
    let queries = move |name: &str| -> std::io::Result<()> {
        let mut socket = connect(port).map_err(std::io::Error::other)?;
        (0..50).try_for_each(|number| {
            query(&mut socket, &format!("{name}-{number};{}", "x".repeat(number * 37)))
        })
    };
    // Returns the number of connections that have ended too early.
    let client = move |number: usize| -> std::io::Result<usize> {
        let mut broken = 0;
        for round in 0..20 {
            match queries(&format!("{number}-{round}")) {
                Ok(()) => {}
                Err(error) if ENDS.contains(&error.kind()) => broken += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(broken)
    };
    let clients: Vec<_> = (0..8).map(|number| std::thread::spawn(move || client(number))).collect();
    let mut broken = 0;
    for client in clients {
        broken += client.join().map_err(|_| "a client failed")??;
    }
    assert_eq!((broken, database.accepted()), (160 / EVERY, 160));
    assert!(forward.try_wait()?.is_none(), "the forward has ended");
    queries("afterwards")?;
    none_is_open(&database).await;
    forward.kill()?;
    forward.wait()?;
    drop(database);
    lab.close().await
}

/// The container listens on ::1 of a pod's own namespace, and not on 127.0.0.1.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_on_the_ipv6_loopback_of_a_pod_is_forwarded() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("cli-forward6").await?;
    let serve = "mkdir /w; echo over ipv6 > /w/index.html; exec httpd -f -p [::1]:8080 -h /w";
    let id = lab.client.launch(&pod, &lab.shell(serve), &sandbox).await?;
    listens(&mut lab, &id, &[8080]).await?;
    let (mut forward, ports) = forwards(&lab, &pod, &["0:8080"])?;
    let mut socket = connect(ports[0])?;
    socket.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut response = String::new();
    socket.read_to_string(&mut response)?;
    assert!(response.ends_with("over ipv6\n"), "{response}");
    forward.kill()?;
    forward.wait()?;
    lab.close().await
}
