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
fn socket() -> Result<OwnedFd, Errno> {
    let family = AddressFamily::INET;
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::SCTP))?;
    set_socket_timeout(&socket, Timeout::Send, Some(5 * SECOND))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(5 * SECOND))?;
    Ok(socket)
}

fn ask(from: &Namespace, address: &'static str) -> Result<String, Errno> {
    from.run(move || {
        let socket = socket()?;
        connect(&socket, &address.parse::<SocketAddr>().unwrap())?;
        let mut text = String::new();
        // Only reads and writes, which are the same for all kinds of sockets.
        TcpStream::from(socket).read_to_string(&mut text).map_err(|e| Errno::from_io_error(&e).unwrap())?;
        Ok(text)
    })
}

#[test]
fn a_host_port_leads_to_the_pod_over_sctp() {
    if matches!(socket(), Err(Errno::PROTONOSUPPORT | Errno::SOCKTNOSUPPORT)) {
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
        pod.run(|| {
            let listener = socket().unwrap();
            bind(&listener, &"0.0.0.0:9999".parse::<SocketAddr>().unwrap()).unwrap();
            listen(&listener, 8).unwrap();
            std::thread::spawn(move || {
                while let Ok(peer) = accept(&listener) {
                    let _ = TcpStream::from(peer).write_all(b"over sctp");
                }
            });
        });
        assert_eq!(ask(&outside, "192.0.2.1:9998").unwrap(), "over sctp");
        assert_eq!(ask(&other, "10.88.0.2:9999").unwrap(), "over sctp");
        block_on(networks.detach(&pod.id)).unwrap();
        assert!(ask(&outside, "192.0.2.1:9998").is_err());
    });
}
