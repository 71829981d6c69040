//! From a URL to a SPDY connection.

use bytes::{Bytes, BytesMut};
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::spdy::{Role, Running};
use crate::stream::StreamError;
use crate::transport;

/// Bytes of a refusal that are shown.
const MAX_REFUSAL: usize = 4 << 10;

/// Why a session did not begin, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{url:?} is not the URL of a streaming session")]
    Url { url: String },
    #[error("cannot reach {url}: {reason}")]
    Connect { url: String, reason: String },
    #[error("the streaming server refused the session with {status}: {text}")]
    Refused { status: StatusCode, text: String },
    #[error(transparent)]
    Stream(StreamError),
    #[error("{0}")]
    Server(String),
}

/// Uses the URL and agrees on one of `protocols`.
pub(super) async fn upgrade(url: &str, protocols: &[&str]) -> Result<Running, ClientError> {
    let bad = || ClientError::Url { url: url.to_owned() };
    let uri: Uri = url.parse().map_err(|_| bad())?;
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(bad)?;
    let fail = |reason: String| ClientError::Connect { url: url.to_owned(), reason };
    let socket = TcpStream::connect(authority.as_str()).await.map_err(|error| fail(error.to_string()))?;
    let hangup = transport::prepare(&socket);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
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
    let request = request.body(Empty::<Bytes>::new()).map_err(|_| bad())?;
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
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().map_err(|_| bad())?;
    let read = BytesMut::from(parts.read_buf);
    // The server opens no streams: there is no place for one.
    Ok(Running::start(Role::Client, Box::new(parts.io.into_inner()), read, hangup, 1).0)
}
