//! Connections, up to the moment at which they become sessions.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::negotiate::{self, Kind};
use super::session;
use super::tls::Certificates;
use super::tokens::{Offer, Tokens};
use crate::transport::{self, Hangup, Transport};

/// Connections that have not become sessions.
const MAX_STRANGERS: usize = 256;
/// How long a connection may take to become a session: others wait for its place.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// The pause after a failed accept: there are no descriptors, and others will be closed.
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes of a request's head.
const MAX_HEAD: usize = 16 << 10;

/// Until it is aborted; then all connections end.
pub(super) async fn accept_all(
    listener: TcpListener,
    certificates: Option<Arc<Certificates>>,
    tokens: Arc<Tokens>,
) {
    let strangers = Arc::new(Semaphore::new(MAX_STRANGERS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = strangers.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a streaming connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (certificates, tokens) = (certificates.clone(), tokens.clone());
        connections.spawn(async move {
            let session = tokio::time::timeout(HANDSHAKE, handshake(socket, certificates, &tokens)).await;
            drop(permit);
            if let Ok(Some((session, hangup))) = session {
                session::run(session, hangup).await;
            }
        });
    }
}

/// From a connection to a session. None: it did not become one.
async fn handshake(
    socket: TcpStream,
    certificates: Option<Arc<Certificates>>,
    tokens: &Tokens,
) -> Option<(session::Upgrading, Hangup)> {
    let hangup = transport::prepare(&socket);
    let io = match certificates {
        Some(certificates) => Transport::Tls(Box::new(certificates.accept(socket).await.ok()?)),
        None => Transport::Plain(socket),
    };
    let (sender, upgrading) = std::sync::mpsc::sync_channel(1);
    let service = service_fn(|request: Request<Incoming>| {
        let response = match agree(request, tokens) {
            Ok((response, upgrade)) => {
                let _ = sender.try_send(upgrade);
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
    Some((upgrading.try_recv().ok()?, hangup))
}

type Refusal = (StatusCode, String);

fn agree(
    mut request: Request<Incoming>,
    tokens: &Tokens,
) -> Result<(Response<Full<Bytes>>, session::Upgrading), Refusal> {
    let path = request.uri().path().trim_start_matches('/').to_owned();
    let (kind, token) = path.split_once('/').unwrap_or_default();
    let kind = if kind == "portforward" { Kind::PortForward } else { Kind::Process };
    // Before the token is taken: a request that cannot become a session does not use it up.
    let agreed = negotiate::negotiate(request.headers(), kind)?;
    let gone = || (StatusCode::NOT_FOUND, "no such session: its URL was used, or is too old".to_owned());
    let offer = tokens.take(token).ok_or_else(gone)?;
    let fits = matches!(offer, Offer::PortForward { .. }) == (kind == Kind::PortForward);
    if !fits {
        return Err(gone());
    }
    let upgraded = hyper::upgrade::on(&mut request);
    let (response, framing) = agreed.accept();
    Ok((response.map(|()| Full::default()), session::Upgrading { upgraded, framing, offer }))
}

fn refuse(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text + "\n"));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
