//! Handles connections until they become sessions.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use bytes::Bytes;
use crisp_metrics::tls::Certificates;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::negotiate::{self, Kind};
use super::pending::{PendingConnection, PendingConnections};
use super::tokens::{Offer, Tokens};
use super::{SessionLimits, session};
use crate::slots::{self, Slots};
use crate::transport::{self, Hangup, Transport};

/// How long a connection may take to become a session.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// The pause after a failed accept: no descriptors are free until other connections close.
const PAUSE: Duration = Duration::from_millis(100);
/// Maximum length of a request's head, in bytes.
const MAX_HEAD: usize = 16 << 10;

/// Accepts connections.
pub(super) struct Listener {
    pub(super) listener: TcpListener,
    pub(super) certificates: Option<Arc<Certificates>>,
    pub(super) tokens: Arc<Tokens>,
    pub(super) pending: Arc<PendingConnections>,
    pub(super) sessions: Arc<Slots>,
    pub(super) limits: SessionLimits,
}

impl Listener {
    /// Accepts until it is aborted; all connections end with it.
    pub(super) async fn accept_all(self) {
        let this = Arc::new(self);
        let mut connections = JoinSet::new();
        let mut looks = this.tokens.looks();
        loop {
            let accepted = tokio::select! {
                accepted = this.listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                _ = looks.tick() => {
                    this.tokens.drop_old();
                    continue;
                }
            };
            match accepted {
                Ok((socket, _)) => {
                    let connection = this.pending.enter();
                    connections.spawn(this.clone().serve(socket, connection));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a streaming connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn serve(self: Arc<Self>, socket: TcpStream, connection: PendingConnection) {
        let handshake = tokio::time::timeout(HANDSHAKE, self.handshake(socket, &connection));
        if let Ok(Some((upgrading, hangup))) = handshake.await {
            drop(connection);
            session::run(upgrading, hangup, &self.limits).await;
        }
    }

    /// Makes a session out of a connection. Returns None when the connection did not become one.
    async fn handshake(
        &self,
        socket: TcpStream,
        connection: &PendingConnection,
    ) -> Option<(session::Upgrading, Hangup)> {
        let hangup = transport::prepare(&socket, self.limits.idle_limits);
        let (sender, upgrading) = std::sync::mpsc::sync_channel(1);
        let request = async {
            let io = match &self.certificates {
                Some(certificates) => {
                    let stream = certificates.clone().accept(socket).await.ok()?;
                    Transport::Tls(Box::new(stream.into()))
                }
                None => Transport::Plain(socket),
            };
            self.request(io, connection, sender).await;
            Some(())
        };
        tokio::select! {
            done = request => done?,
            () = connection.evicted() => return None,
        }
        Some((upgrading.try_recv().ok()?, hangup))
    }

    async fn request(
        &self,
        io: Transport,
        connection: &PendingConnection,
        upgrading: SyncSender<session::Upgrading>,
    ) {
        let service = service_fn(|request: Request<Incoming>| {
            let response = match self.agree(request, connection) {
                Ok((response, upgrade)) => {
                    let _ = upgrading.try_send(upgrade);
                    response
                }
                Err((status, text)) => refuse(status, text),
            };
            std::future::ready(Ok::<_, Infallible>(response))
        });
        let served = hyper::server::conn::http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a streaming connection failed");
        }
    }

    fn agree(
        &self,
        mut request: Request<Incoming>,
        connection: &PendingConnection,
    ) -> Result<(Response<Full<Bytes>>, session::Upgrading), Refusal> {
        let path = request.uri().path().trim_start_matches('/').to_owned();
        let (kind, token) = path.split_once('/').unwrap_or_default();
        let kind = if kind == "portforward" { Kind::PortForward } else { Kind::Process };
        // Negotiated before the token is taken: a request that cannot become a session does not use it up.
        let agreed = negotiate::negotiate(request.headers(), kind)?;
        let gone = || (StatusCode::NOT_FOUND, "no such session: its URL was used, or is too old".to_owned());
        let admit = |owner: &Arc<str>, offer: &Offer| {
            if matches!(offer, Offer::PortForward { .. }) != (kind == Kind::PortForward) {
                return Err(gone());
            }
            if let Offer::PortForward { ports, .. } = offer {
                agreed.check_ports(ports)?;
            }
            let slot = self.sessions.take(owner).map_err(too_many)?;
            // A connection that was evicted at this moment leaves its token for the next try.
            if connection.leave() { Ok((slot, owner.clone())) } else { Err(gone()) }
        };
        let (offer, (slot, owner)) = self.tokens.take(token, admit).ok_or_else(gone)??;
        let upgraded = hyper::upgrade::on(&mut request);
        let (response, framing) = agreed.accept();
        let upgrading = session::Upgrading { upgraded, framing, offer, slot, owner };
        Ok((response.map(|()| Full::default()), upgrading))
    }
}

type Refusal = (StatusCode, String);

fn too_many(full: slots::Full) -> Refusal {
    let text = match full {
        slots::Full::Owner { owner, limit } => format!("{limit} streaming sessions of {owner} are open"),
        slots::Full::All { limit } => format!("{limit} streaming sessions are open"),
    };
    (StatusCode::SERVICE_UNAVAILABLE, format!("{text}, which is the most there may be: end some of them"))
}

fn refuse(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text + "\n"));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
