//! Host ports over SCTP, with packets.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

use crisp_sandbox::network::{NetworkConfig, NetworkKind, Networks, Protocol};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, accept, bind, connect, ipproto, listen, socket_with,
};

use crate::support::{Namespace, SECOND, block_on, config, on_private_host, outside, port};

/// A socket for one association with another peer, which is used as that of TCP.
fn socket(address: &SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::SCTP))?;
    set_socket_timeout(&socket, Timeout::Send, Some(5 * SECOND))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(5 * SECOND))?;
    Ok(socket)
}

fn ask(address: &str) -> Result<String, Errno> {
    let address = address.parse::<SocketAddr>().unwrap();
    let socket = socket(&address)?;
    connect(&socket, &address)?;
    let mut text = String::new();
    // Only reads and writes, which are the same for all kinds of sockets.
    TcpStream::from(socket).read_to_string(&mut text).map_err(|e| Errno::from_io_error(&e).unwrap())?;
    Ok(text)
}

fn ask_from(from: &Namespace, address: &'static str) -> Result<String, Errno> {
    from.run(move || ask(address))
}

/// Takes the port as a program that serves it does.
fn bind_on_host(address: &str) -> Result<(), Errno> {
    let address = address.parse::<SocketAddr>().unwrap();
    bind(&socket(&address)?, &address)
}

fn has_sctp() -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    !matches!(socket(&address), Err(Errno::PROTONOSUPPORT | Errno::SOCKTNOSUPPORT))
}

/// Serves both families at port 9999 of the pod.
fn serve(pod: &Namespace) {
    pod.run(|| {
        let address = "[::]:9999".parse::<SocketAddr>().unwrap();
        let listener = socket(&address).unwrap();
        bind(&listener, &address).unwrap();
        listen(&listener, 8).unwrap();
        std::thread::spawn(move || {
            while let Ok(peer) = accept(&listener) {
                let _ = TcpStream::from(peer).write_all(b"over sctp");
            }
        });
    });
}

#[test]
fn a_host_port_leads_to_the_pod_over_sctp() {
    if !has_sctp() {
        crisp_skip::unsupported!(Kernel("sctp"));
    }
    on_private_host(module_path!(), "a_host_port_leads_to_the_pod_over_sctp", || {
        let dir = tempfile::tempdir().unwrap();
        let outside = outside();
        let networks =
            Networks::open(&NetworkConfig { kind: NetworkKind::BuiltIn, ..config(dir.path()) }).unwrap();
        let (pod, other) = (Namespace::new(), Namespace::new());
        block_on(async {
            pod.attach(&networks, &[port(Protocol::Sctp, 9998, 9999)]).await.unwrap();
            other.attach(&networks, &[]).await.unwrap();
        });
        serve(&pod);
        for address in ["192.0.2.1:9998", "[2001:db8::1]:9998"] {
            assert_eq!(ask_from(&outside, address).as_deref(), Ok("over sctp"), "{address}");
        }
        for address in ["10.88.0.2:9999", "[fd88::2]:9999"] {
            assert_eq!(ask_from(&other, address).as_deref(), Ok("over sctp"), "{address}");
        }
        assert_eq!(ask("127.0.0.1:9998").as_deref(), Ok("over sctp"), "from the loopback interface");
        block_on(networks.detach(&pod.id)).unwrap();
        assert!(ask_from(&outside, "192.0.2.1:9998").is_err());
    });
}

#[test]
fn no_program_takes_an_sctp_port_of_a_pod() {
    if !has_sctp() {
        crisp_skip::unsupported!(Kernel("sctp"));
    }
    on_private_host(module_path!(), "no_program_takes_an_sctp_port_of_a_pod", || {
        let dir = tempfile::tempdir().unwrap();
        let networks =
            Networks::open(&NetworkConfig { kind: NetworkKind::BuiltIn, ..config(dir.path()) }).unwrap();
        let pod = Namespace::new();
        block_on(pod.attach(&networks, &[port(Protocol::Sctp, 9998, 9999)])).unwrap();
        for address in ["0.0.0.0:9998", "[::]:9998", "127.0.0.1:9998"] {
            assert_eq!(bind_on_host(address), Err(Errno::ADDRINUSE), "{address}");
        }
        bind_on_host("0.0.0.0:9997").unwrap();
        block_on(networks.detach(&pod.id)).unwrap();
        for address in ["0.0.0.0:9998", "[::]:9998"] {
            bind_on_host(address).unwrap();
        }
        // Nor does a pod take that of a program.
        let address = "0.0.0.0:9998".parse::<SocketAddr>().unwrap();
        let program = socket(&address).unwrap();
        bind(&program, &address).unwrap();
        let error = block_on(pod.attach(&networks, &[port(Protocol::Sctp, 9998, 9999)])).unwrap_err();
        assert!(error.to_string().contains("9998/sctp"), "{error}");
    });
}
