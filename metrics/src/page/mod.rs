//! The HTTP pages, and nothing else: `GET /metrics` for Prometheus; `GET /metrics/cadvisor` with the metrics
//! of pods, at the path that a kubelet uses for them; and for probes `GET /healthz` (the server answers) and
//! `GET /readyz` (pods can be run, or the problems).

use std::convert::Infallible;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::rt;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::connections::{Connection, Connections};
use crate::tls::Certificates;
use crate::{Metrics, Readiness, openmetrics};

/// Maximum number of connections at once. More than a few are a mistake, and must not use up the server's
/// descriptors.
const MAX_CONNECTIONS: usize = 64;
/// A client that sends no request header for this long is disconnected.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Limits for reading the token: its time, and its bytes.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_TOKEN: u64 = 4096;
/// Time limit for scrapes that came before to be done.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(20);
/// Time limit for a whole connection: a client that does not read the response is disconnected.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(40);

/// The reason why the page cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is in use, or this host does not have it.
    #[error("cannot listen for metrics on {listen}: {source}")]
    Bind {
        /// The requested address.
        listen: SocketAddr,
        /// The kernel's error.
        source: io::Error,
    },
}

/// The clients that may read the pages. By default all that reach the address.
#[derive(Clone, Default)]
pub struct Access {
    /// With a certificate, the pages are served over TLS; with authorities of clients, to their clients alone.
    pub certificates: Option<Arc<Certificates>>,
    /// With it, `Authorization: Bearer TOKEN` is required, except for `/healthz`.
    pub token: Option<TokenFile>,
}

/// A file with a token, read for each request.
#[derive(Debug, Clone)]
pub struct TokenFile {
    path: PathBuf,
    /// Held by the one thread that reads: a dead volume must not take one for each request.
    reading: Arc<Mutex<()>>,
}

impl TokenFile {
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, reading: Arc::default() }
    }

    /// The token in the file.
    ///
    /// # Errors
    /// It cannot be read in time, or is not a regular file.
    pub async fn read(&self) -> io::Result<Vec<u8>> {
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        let reading =
            tokio::time::timeout(TOKEN_TIMEOUT, self.reading.clone().lock_owned()).await.map_err(late)?;
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || {
            let _reading = reading;
            // A FIFO would not open before it has a writer.
            let mut file = OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path)?;
            if !file.metadata()?.is_file() {
                return Err(io::Error::other("is not a regular file"));
            }
            let mut token = Vec::new();
            Read::by_ref(&mut file).take(MAX_TOKEN).read_to_end(&mut token)?;
            Ok(token)
        });
        tokio::time::timeout(TOKEN_TIMEOUT, read).await.map_err(late)?.map_err(io::Error::other)?
    }
}

const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();

/// The running server of the pages; dropping it stops the server.
pub struct MetricsServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl MetricsServer {
    /// The address that it listens on, with the real port when port 0 was requested.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Metrics {
    /// Serves the page on `listen` until the result is dropped.
    ///
    /// # Errors
    /// [`ServeError::Bind`].
    pub async fn serve(&self, listen: SocketAddr, access: Access) -> Result<MetricsServer, ServeError> {
        let bind = |source| ServeError::Bind { listen, source };
        let listener = TcpListener::bind(listen).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        Ok(MetricsServer { address, task: tokio::spawn(accept(listener, self.clone(), access)) })
    }
}

async fn accept(listener: TcpListener, metrics: Metrics, access: Access) {
    let connections = Connections::new(MAX_CONNECTIONS);
    loop {
        let (stream, _) = crate::accept("metrics", || listener.accept()).await;
        let Some(permit) = connections.permit().await else { return };
        let (metrics, access) = (metrics.clone(), access.clone());
        connections.spawn(|client| async move {
            let served = connection(stream, client, metrics, access);
            if tokio::time::timeout(CONNECTION_TIMEOUT, served).await.is_err() {
                tracing::debug!("a metrics connection took too long");
            }
            drop(permit);
        });
    }
}

async fn connection(stream: TcpStream, client: Connection, metrics: Metrics, mut access: Access) {
    match access.certificates.take() {
        None => serve_connection(TokioIo::new(stream), client, metrics, access).await,
        Some(certificates) => {
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, certificates.accept(stream)).await {
                Ok(Ok(stream)) => serve_connection(TokioIo::new(stream), client, metrics, access).await,
                Err(_) => tracing::debug!("a metrics connection did not finish its TLS handshake"),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a metrics connection has no TLS, or no certificate")
                }
            }
        }
    }
}

async fn serve_connection(
    stream: impl rt::Read + rt::Write + Unpin,
    client: Connection,
    metrics: Metrics,
    access: Access,
) {
    let client = Arc::new(client);
    let service = service_fn(move |request| {
        client.has_requested();
        let (client, metrics, access) = (Arc::clone(&client), metrics.clone(), access.clone());
        async move {
            let response = respond_if_allowed(request, metrics, access).await;
            client.has_response();
            response
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        // One request per connection, so that the deadline of a connection is also that of its response.
        .keep_alive(false)
        .serve_connection(stream, service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a metrics connection broke");
    }
}

/// Refuses requests without the token.
async fn respond_if_allowed(
    request: Request<Incoming>,
    metrics: Metrics,
    access: Access,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let Some(token) = access.token.filter(|_| request.uri().path() != "/healthz") else {
        return respond(request, metrics).await;
    };
    // A request without one does not make the server read.
    if let Some(shown) = request.headers().get(header::AUTHORIZATION).cloned() {
        match token.read().await {
            Ok(token) if is_bearer(shown.as_bytes(), &token) => return respond(request, metrics).await,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(path = %token.path.display(), %error, "the token for /metrics cannot be read");
            }
        }
    }
    let mut response = Response::new(Full::new(Bytes::from_static(b"a bearer token is required\n")));
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    Ok(response)
}

/// Takes the same time wherever the two differ. An empty file is no token.
fn is_bearer(shown: &[u8], token: &[u8]) -> bool {
    let token = token.trim_ascii();
    let Some(shown) = shown.strip_prefix(b"Bearer ") else { return false };
    let differing = shown.iter().zip(token).fold(0, |differing, (a, b)| differing | (a ^ b));
    !token.is_empty() && shown.len() == token.len() && differing == 0
}

async fn respond(request: Request<Incoming>, metrics: Metrics) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut kind = "text/plain; version=0.0.4; charset=utf-8";
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, path @ ("/metrics" | "/metrics/cadvisor")) => {
            let is_server = path == "/metrics";
            let is_open = is_server && openmetrics::is_accepted(accepted(request.headers()));
            if is_open {
                kind = openmetrics::CONTENT_TYPE;
            }
            let scraper = metrics.scraper();
            let write = move || match (is_server, is_open) {
                (true, true) => metrics.openmetrics(),
                (true, false) => metrics.text(),
                (false, _) => metrics.pods_text(),
            };
            scrape(scraper, write).await
        }
        (&Method::GET, "/healthz") => (StatusCode::OK, "ok\n".to_owned()),
        (&Method::GET, "/readyz") => ready(&metrics).await,
        (_, "/metrics" | "/metrics/cadvisor" | "/healthz" | "/readyz") => {
            (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned())
        }
        _ => (
            StatusCode::NOT_FOUND,
            "only /metrics, /metrics/cadvisor, /healthz and /readyz are here\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    // For caches: the same address has two formats.
    response.headers_mut().insert(header::VARY, header::HeaderValue::from_static("accept"));
    Ok(response)
}

/// Writes a page. Collectors read files, so they do not run on a thread that serves RPCs; and on one thread at most:
/// requests whose clients have gone must not hold more.
async fn scrape(
    scraper: Arc<Mutex<()>>,
    write: impl FnOnce() -> String + Send + 'static,
) -> (StatusCode, String) {
    let Ok(scraping) = tokio::time::timeout(SCRAPE_TIMEOUT, scraper.lock_owned()).await else {
        return (StatusCode::SERVICE_UNAVAILABLE, "other scrapes take too long\n".to_owned());
    };
    let written = tokio::task::spawn_blocking(move || {
        let _scraping = scraping;
        write()
    });
    match written.await {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn accepted(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok())
}

/// Writes one line per condition, as the servers of Kubernetes do.
async fn ready(metrics: &Metrics) -> (StatusCode, String) {
    let conditions = metrics.readiness().await;
    let text = conditions.iter().map(|Readiness { name, failure }| match failure {
        None => format!("[+]{name} ok\n"),
        Some(why) => format!("[-]{name} failed: {why}\n"),
    });
    let is_ready = conditions.iter().all(|condition| condition.failure.is_none());
    (if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text.collect())
}

#[cfg(test)]
mod tests;
