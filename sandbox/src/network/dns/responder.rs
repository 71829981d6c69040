//! The sockets of one network's gateway.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crisp_executor::ids::PodId;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Dns;
use super::forward::{Transport, forward, read_framed, write_framed};
use super::message::{Code, DnsAnswer, Query, UDP_ANSWER};
use super::share::{Share, Shares};
use crate::network::builtin::{Builtin, DnsSocket, resolve};
use crate::network::{NetworkError, Protocol};

/// Limit for queries that are forwarded at the same time; more are refused, so that a pod cannot exhaust the
/// server.
const QUERIES: usize = 256;
const QUERIES_OF_A_POD: usize = 32;
const CONNECTIONS: usize = 64;
const CONNECTIONS_OF_A_POD: usize = 8;
/// An idle connection is closed after this time.
const IDLE: Duration = Duration::from_secs(10);
/// Every connection is closed after this time: a client connects again.
const LONGEST: Duration = Duration::from_secs(60);
/// Larger than any query.
const LARGEST: usize = 4096;
const LARGEST_ANSWER: usize = 65_535;

/// Serves until it is dropped.
#[derive(Debug)]
pub(super) struct Responder {
    _tasks: JoinSet<()>,
}

/// The shared state of all sockets of a network.
#[derive(Debug)]
struct Shared {
    network: Weak<Builtin>,
    all: Weak<Dns>,
    gateways: Vec<IpAddr>,
    query_budget: Arc<Shares>,
    connections: Arc<Shares>,
}

impl Responder {
    /// Opens sockets on the gateways where that is possible. Must be called within the runtime.
    pub(super) fn start(
        dns: &Arc<Dns>,
        network: &Arc<Builtin>,
        gateways: &[IpAddr],
    ) -> Result<(Self, Vec<DnsSocket>), NetworkError> {
        let shared = Arc::new(Shared {
            network: Arc::downgrade(network),
            all: Arc::downgrade(dns),
            gateways: gateways.to_vec(),
            query_budget: Shares::new(QUERIES, QUERIES_OF_A_POD),
            connections: Shares::new(CONNECTIONS, CONNECTIONS_OF_A_POD),
        });
        let (mut tasks, mut sockets, mut failed) = (JoinSet::new(), Vec::new(), None);
        for gateway in gateways {
            match serve(&mut tasks, &shared, *gateway) {
                Ok(both) => sockets.extend(both),
                Err(source) => failed = Some(NetworkError::DnsSocket { gateway: *gateway, source }),
            }
        }
        match failed {
            Some(error) if sockets.is_empty() => Err(error),
            failed => {
                if let Some(error) = failed {
                    tracing::warn!(network = network.name(), %error, "names of pods are resolved on a part of the gateways");
                }
                Ok((Self { _tasks: tasks }, sockets))
            }
        }
    }
}

/// Serves on ports that the kernel chooses.
fn serve(tasks: &mut JoinSet<()>, shared: &Arc<Shared>, gateway: IpAddr) -> io::Result<[DnsSocket; 2]> {
    let udp = std::net::UdpSocket::bind((gateway, 0))?;
    udp.set_nonblocking(true)?;
    let tcp = std::net::TcpListener::bind((gateway, 0))?;
    tcp.set_nonblocking(true)?;
    let sockets = [
        DnsSocket { address: udp.local_addr()?, protocol: Protocol::Udp },
        DnsSocket { address: tcp.local_addr()?, protocol: Protocol::Tcp },
    ];
    tasks.spawn(serve_udp(Arc::clone(shared), Arc::new(UdpSocket::from_std(udp)?)));
    tasks.spawn(serve_tcp(Arc::clone(shared), TcpListener::from_std(tcp)?));
    Ok(sockets)
}

async fn serve_udp(shared: Arc<Shared>, socket: Arc<UdpSocket>) {
    let mut buffer = [0; LARGEST];
    let mut tasks = JoinSet::new();
    loop {
        // An error belongs to an earlier response, whose receiver is gone.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        while tasks.try_join_next().is_some() {}
        let Some(query) = Query::read(&buffer[..length]).filter(|_| shared.has(from.ip())) else { continue };
        if let Some(answer) = shared.answer_at_once(&query, from.ip(), UDP_ANSWER) {
            send(&socket, &answer, from);
            continue;
        }
        let Some(share) = shared.take_share(from.ip()) else {
            send(&socket, &query.fail(Code::Refused), from);
            continue;
        };
        let (shared, socket, message) = (Arc::clone(&shared), Arc::clone(&socket), buffer[..length].to_vec());
        tasks.spawn(async move {
            let answer = shared.forward(&message, &query, Transport::Udp).await;
            send(&socket, &answer, from);
            drop(share);
        });
    }
}

/// Sends without waiting: responses to a pod with a slow network can fill the buffer that all share. A client
/// without a response asks again.
fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    let _ = socket.try_send_to(answer, to);
}

async fn serve_tcp(shared: Arc<Shared>, listener: TcpListener) {
    let mut tasks = JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        while tasks.try_join_next().is_some() {}
        let Ok((stream, from)) = accepted else {
            // No descriptor is left: waiting helps more than retrying at once.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        if let (true, Some(share)) = (shared.has(from.ip()), shared.connections.take(from.ip())) {
            let shared = Arc::clone(&shared);
            tasks.spawn(async move {
                // Its result does not matter to others.
                let _ = timeout(LONGEST, serve_connection(&shared, stream, from.ip())).await;
                drop(share);
            });
        }
    }
}

async fn serve_connection(shared: &Shared, mut stream: TcpStream, pod: IpAddr) -> io::Result<()> {
    loop {
        let message = timeout(IDLE, read_framed(&mut stream)).await??;
        let Some(query) = Query::read(&message) else { return Ok(()) };
        let answer = match (shared.answer_at_once(&query, pod, LARGEST_ANSWER), shared.take_share(pod)) {
            (Some(answer), _) => answer,
            (None, Some(_share)) => shared.forward(&message, &query, Transport::Tcp).await,
            (None, None) => query.fail(Code::Refused),
        };
        timeout(IDLE, write_framed(&mut stream, &answer)).await??;
    }
}

impl Shared {
    /// Only pods of the network get responses.
    fn has(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.network.upgrade().is_some_and(|network| network.subnets().iter().any(|net| net.contains(&ip)))
    }

    /// None when the host's resolvers must be asked.
    fn answer_at_once(&self, query: &Query, client: IpAddr, limit: usize) -> Option<Vec<u8>> {
        let network = self.network.upgrade()?;
        let pod = network.pod_at(client.to_canonical());
        let networks = self.networks_of(network, pod.as_ref());
        let known = match query.pointer() {
            Some(ip) => DnsAnswer::Pointer(networks.iter().find_map(|network| network.name_of(ip))?),
            None => DnsAnswer::Addresses(resolve(&networks, &query.name, pod.as_ref())?),
        };
        Some(query.answer(&known, limit))
    }

    /// The networks whose names the pod may find: this one, and the others that it is in.
    fn networks_of(&self, own: Arc<Builtin>, pod: Option<&PodId>) -> Vec<Arc<Builtin>> {
        let others = self.all.upgrade().zip(pod).map(|(all, pod)| all.networks_of(pod)).unwrap_or_default();
        let others = others.into_iter().filter(|other| other.name() != own.name());
        std::iter::once(Arc::clone(&own)).chain(others).collect()
    }

    /// A share of the budget for a query that must be forwarded. None for queries from this host itself: its
    /// resolvers may have forwarded them, which would be a loop.
    fn take_share(&self, client: IpAddr) -> Option<Share> {
        if self.gateways.contains(&client) { None } else { self.query_budget.take(client) }
    }

    async fn forward(&self, message: &[u8], query: &Query, by: Transport) -> Vec<u8> {
        let has_way_out = self.network.upgrade().is_some_and(|network| !network.is_internal());
        if !has_way_out {
            return query.fail(Code::Refused);
        }
        let own = self.all.upgrade().map_or_else(Vec::new, |all| all.gateways());
        let answer = forward(message, query, by, &own).await;
        answer.unwrap_or_else(|| query.fail(Code::Failure))
    }
}
