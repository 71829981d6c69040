//! Makes a SPDY connection from a URL.

use bytes::{Bytes, BytesMut};
use http::uri::Authority;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::net::TcpStream;

use super::tls;
use crate::spdy::{Role, Rules, Running};
use crate::stream::StreamError;
use crate::transport::{self, IdleLimits, Transport};

/// How many bytes of a refusal are shown.
const MAX_REFUSAL: usize = 4 << 10;

/// The reason why a session did not begin, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{url:?} does not begin the URL of a streaming session")]
    Url { url: String },
    #[error("cannot reach {url}: {reason}")]
    Connect { url: String, reason: String },
    #[error("the streaming server refused the session with {status}: {text}")]
    Refused { status: StatusCode, text: String },
    #[error("the streaming server's certificate cannot be used: {0}")]
    Certificate(String),
    #[error(transparent)]
    Stream(StreamError),
    #[error("{0}")]
    Server(String),
}

/// The URL of a session, and the certificate of its server.
#[derive(Debug, Clone)]
pub struct Endpoint {
    url: String,
    certificate: Option<CertificateDer<'static>>,
}

impl From<&str> for Endpoint {
    fn from(url: &str) -> Self {
        Self { url: url.to_owned(), certificate: None }
    }
}

impl From<&String> for Endpoint {
    fn from(url: &String) -> Self {
        Self::from(url.as_str())
    }
}

impl Endpoint {
    /// Requires the server of an `https` URL to have exactly this certificate, in PEM: see
    /// [`StreamServer::certificate`](crate::StreamServer::certificate).
    ///
    /// # Errors
    /// [`ClientError::Certificate`].
    pub fn with_certificate(self, pem: &str) -> Result<Self, ClientError> {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes());
        let certificate = certificate.map_err(|error| ClientError::Certificate(error.to_string()))?;
        Ok(Self { certificate: Some(certificate), ..self })
    }
}

/// Connects to the URL and agrees on one of `protocols`.
pub(super) async fn upgrade(endpoint: Endpoint, protocols: &[&str]) -> Result<Running, ClientError> {
    let Endpoint { url, certificate } = endpoint;
    // Without the path: the token in it is valid for a while, and errors are logged.
    let shown = || url.split('/').take(3).collect::<Vec<_>>().join("/");
    let bad = || ClientError::Url { url: shown() };
    let fail = |reason: String| ClientError::Connect { url: shown(), reason };
    let uri: Uri = url.parse().map_err(|_| bad())?;
    let authority = uri.authority().ok_or_else(bad)?;
    let certificate = match uri.scheme_str() {
        Some("http") => None,
        Some("https") => {
            Some(certificate.ok_or_else(|| fail("the server's certificate is not known".to_owned()))?)
        }
        _ => return Err(bad()),
    };
    let socket = TcpStream::connect(authority.as_str()).await.map_err(|error| fail(error.to_string()))?;
    let hangup = transport::prepare(&socket, IdleLimits::default());
    let io = match certificate {
        None => Transport::Plain(socket),
        Some(certificate) => {
            let stream = tls::connect(socket, certificate).await.map_err(|error| fail(error.to_string()))?;
            Transport::Tls(Box::new(stream))
        }
    };
    let upgraded = request(io, &uri, authority, protocols, &fail).await?;
    let parts = upgraded.downcast::<TokioIo<Transport>>().map_err(|_| bad())?;
    let read = BytesMut::from(parts.read_buf);
    // The server opens no streams, so the places for incoming streams stay unused.
    let io = Box::new(parts.io.into_inner());
    Ok(Running::start(Role::Client, Rules::default(), io, read, hangup, 1).0)
}

async fn request(
    io: Transport,
    uri: &Uri,
    authority: &Authority,
    protocols: &[&str],
    fail: &impl Fn(String) -> ClientError,
) -> Result<Upgraded, ClientError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io))
        .await
        .map_err(|error| fail(error.to_string()))?;
    let connection = tokio::spawn(connection.with_upgrades());
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::post(path)
        .header(header::HOST, authority.as_str())
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "SPDY/3.1");
    for protocol in protocols {
        request = request.header("X-Stream-Protocol-Version", *protocol);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| fail(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(|error| fail(error.to_string()))?;
    let status = response.status();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        let text = Limited::new(response.into_body(), MAX_REFUSAL).collect().await;
        let text = text.map(|text| text.to_bytes()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        return Err(ClientError::Refused { status, text });
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(|error| fail(error.to_string()))?;
    let _ = connection.await;
    Ok(upgraded)
}
