//! Forwards queries to the host's own resolvers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::message::Query;
use crate::host_resolver::{host_dns, socket_address};

const PORT: u16 = 53;
/// Time limit for one resolver.
const PATIENCE: Duration = Duration::from_secs(2);
const MOST_RESOLVERS: usize = 3;
/// Limit for UDP responses of resolvers, whatever size a client accepts.
const LARGEST: usize = 4096;

/// The transport of the query and of its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// The unchanged response of the first resolver that gives one.
pub(super) async fn forward(message: &[u8], query: &Query, by: Transport, own: &[IpAddr]) -> Option<Vec<u8>> {
    for resolver in resolvers(own) {
        let asked = async {
            match by {
                Transport::Udp => query_udp(resolver, message, query).await,
                Transport::Tcp => query_tcp(resolver, message).await,
            }
        };
        match timeout(PATIENCE, asked).await {
            Ok(Ok(answer)) if query.is_answered_by(&answer) => return Some(answer),
            // The next one may do better.
            _ => {}
        }
    }
    None
}

/// Read each time: it costs some microseconds, and changes with the host's network.
fn resolvers(own: &[IpAddr]) -> Vec<SocketAddr> {
    let servers = host_dns().servers.into_iter().filter_map(|server| socket_address(&server, PORT));
    servers.filter(|server| !own.contains(&server.ip())).take(MOST_RESOLVERS).collect()
}

async fn query_udp(resolver: SocketAddr, message: &[u8], query: &Query) -> io::Result<Vec<u8>> {
    let any: IpAddr =
        if resolver.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(resolver).await?;
    socket.send(message).await?;
    let mut answer = vec![0; LARGEST];
    loop {
        let length = socket.recv(&mut answer).await?;
        // A message that does not match may be an attempt to guess the answer.
        if query.is_answered_by(&answer[..length]) {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

async fn query_tcp(resolver: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    write_framed(&mut stream, message).await?;
    read_framed(&mut stream).await
}

/// Over TCP a message begins with its length.
pub(super) async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

pub(super) async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}
