//! One HTTP exchange: time-outs, redirects, and specific errors.
//!
//! Redirects are followed here and not by a library, because blobs are often redirected to other hosts:
//! neither credentials nor the header table of a hosts.toml are sent there, and a challenge from there gets
//! no response.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use crisp_metrics::trace::{self, Span};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::body::{Body, Pace};
use super::dial::Dialer;
use super::error::{EndpointError, chain};
use super::explain::{error_detail, explain, retry_after};
use super::proxy::Proxies;
use super::tls::{Authorities, TlsOptions, client_config};
use super::url::Url;

/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 5;
/// Limit for the body of an error response.
const MAX_ERROR_BODY: usize = 16 << 10;
/// Read buffer per connection: large enough for few wake-ups, small enough for eight at once.
const READ_BUFFER: usize = 256 << 10;

/// Time-outs of one exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timeouts {
    /// For opening a TCP connection.
    pub connect: Duration,
    /// From the request to the head of the response, TLS handshake and proxy included.
    pub answer: Duration,
    /// The window in which a body must deliver at least [`stall_bytes`](Self::stall_bytes), and also the time
    /// limit without any byte.
    pub stall: Duration,
    /// See [`stall`](Self::stall). A slower registry is abandoned.
    pub stall_bytes: u64,
}

impl Timeouts {
    pub(crate) fn pace(&self) -> Pace {
        Pace { window: self.stall, bytes: self.stall_bytes }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        let half_minute = Duration::from_secs(30);
        Self {
            connect: Duration::from_secs(10),
            answer: half_minute,
            stall: half_minute,
            stall_bytes: 8 << 10,
        }
    }
}

/// A request before it is sent.
pub(crate) struct HttpRequest {
    pub(crate) method: Method,
    pub(crate) url: Url,
    /// Headers that may be sent to the target of a redirect.
    pub(crate) headers: HeaderMap,
    /// Headers for the first server only: credentials and the configured header table.
    pub(crate) private: HeaderMap,
    pub(crate) body: Bytes,
}

impl HttpRequest {
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: HeaderMap::new(), private: HeaderMap::new(), body: Bytes::new() }
    }
}

/// Connections to one endpoint, kept open between requests. Cheap to clone.
#[derive(Clone)]
pub(crate) struct HttpClient {
    shared: Arc<Shared>,
    pub(crate) timeouts: Timeouts,
}

type SecureClient = Client<HttpsConnector<Dialer>, Full<Bytes>>;

struct Shared {
    plain: Client<Dialer, Full<Bytes>>,
    /// Built on first use, because it reads the system's certificate authorities. A failure is not kept: the
    /// next try may succeed, for example when descriptors are free again.
    secure: Mutex<Option<SecureClient>>,
    tls: TlsOptions,
    authorities: Authorities,
    dialer: Dialer,
    proxies: Proxies,
}

impl HttpClient {
    pub(crate) fn new(
        tls: TlsOptions,
        authorities: Authorities,
        timeouts: Timeouts,
        proxies: Proxies,
    ) -> Self {
        let dialer = Dialer::new(timeouts.connect, proxies.clone());
        let plain = builder().build(dialer.clone());
        let shared = Shared { plain, secure: Mutex::default(), tls, authorities, dialer, proxies };
        Self { shared: Arc::new(shared), timeouts }
    }

    /// Sends a request, follows redirects, and returns the response with any status. The exception is a 401
    /// from another server after a redirect: responding to it would send credentials to a wrong server.
    pub(crate) async fn send(&self, request: &HttpRequest) -> Result<Response<Incoming>, EndpointError> {
        let mut url = request.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.exchange(request, &url).await?;
            if response.status() == StatusCode::UNAUTHORIZED && !url.same_server(&request.url) {
                let why = format!("{} wants credentials, and they are not sent there", url.origin());
                return Err(EndpointError::Redirect { why });
            }
            // Only a request without a body is repeated elsewhere: a refresh token is in the body.
            let Some(location) = redirect_target(&response).filter(|_| request.body.is_empty()) else {
                return Ok(response);
            };
            let next = url.join(location).map_err(|e| EndpointError::Redirect { why: e.to_string() })?;
            if url.is_https() && !next.is_https() {
                let why = format!("from https to {}", next.origin());
                return Err(EndpointError::Redirect { why });
            }
            url = next;
        }
        Err(EndpointError::Redirect { why: format!("more than {MAX_REDIRECTS} in a row") })
    }

    async fn exchange(&self, given: &HttpRequest, url: &Url) -> Result<Response<Incoming>, EndpointError> {
        let mut span = request_span(given, url);
        let result = self.exchange_once(given, url).await;
        if let Ok(response) = &result {
            let status = response.status();
            span.set("http.response.status_code", || i64::from(status.as_u16()));
            // 401 is how a registry asks for a login.
            if (status.is_client_error() || status.is_server_error()) && status != StatusCode::UNAUTHORIZED {
                span.fail(&status);
            }
        }
        span.done(result)
    }

    async fn exchange_once(
        &self,
        given: &HttpRequest,
        url: &Url,
    ) -> Result<Response<Incoming>, EndpointError> {
        let protocol = |e: &dyn std::error::Error| EndpointError::Protocol { why: chain(e) };
        let uri = url.to_uri().map_err(|e| protocol(&e))?;
        let mut request = Request::new(Full::new(given.body.clone()));
        *request.method_mut() = given.method.clone();
        let headers = request.headers_mut();
        headers.extend(given.headers.clone());
        if url.same_server(&given.url) {
            headers.extend(given.private.clone());
        }
        headers.entry(header::USER_AGENT).or_insert(USER_AGENT);
        headers.entry(header::ACCEPT_ENCODING).or_insert(HeaderValue::from_static("identity"));
        self.shared.proxies.check(&uri).map_err(|e| EndpointError::Configuration { why: e.to_string() })?;
        if let Some(value) = self.shared.proxies.authorization(&uri) {
            headers.insert(header::PROXY_AUTHORIZATION, value);
        }
        *request.uri_mut() = uri;
        let sending = if url.is_https() {
            self.secure().await?.request(request)
        } else {
            self.shared.plain.request(request)
        };
        match tokio::time::timeout(self.timeouts.answer, sending).await {
            Err(_) => Err(EndpointError::NoAnswer { after: self.timeouts.answer }),
            Ok(Err(error)) => Err(explain(&error, url)),
            Ok(Ok(response)) => Ok(response),
        }
    }

    async fn secure(&self) -> Result<SecureClient, EndpointError> {
        let made = self.shared.secure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(client) = made {
            return Ok(client);
        }
        let wrong = |why: String| EndpointError::Configuration { why };
        let shared = self.shared.clone();
        // The files of certificates may be on a volume that hangs.
        let read = tokio::task::spawn_blocking(move || client_config(&shared.tls, &shared.authorities));
        let config = match tokio::time::timeout(self.timeouts.answer, read).await {
            Ok(Ok(config)) => config.map_err(|e| wrong(e.to_string()))?,
            Ok(Err(error)) => return Err(wrong(error.to_string())),
            Err(_) => return Err(wrong("the files of its certificates cannot be read in time".to_owned())),
        };
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_only()
            .enable_http1()
            .wrap_connector(self.shared.dialer.clone());
        let mut secure = self.shared.secure.lock().unwrap_or_else(PoisonError::into_inner);
        // If another request was faster, its connections are used.
        Ok(secure.get_or_insert_with(|| builder().build(connector)).clone())
    }

    /// Reads a whole body of at most `limit` bytes.
    pub(crate) async fn read_all(
        &self,
        response: Response<Incoming>,
        limit: u64,
        what: &str,
    ) -> Result<Bytes, EndpointError> {
        Body::new(response.into_body(), self.timeouts.pace()).read_all(limit, what).await
    }

    /// Converts an unsuccessful response into an error.
    pub(crate) async fn refusal(&self, response: Response<Incoming>) -> EndpointError {
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let body = self.read_all(response, MAX_ERROR_BODY as u64, "the error").await.unwrap_or_default();
        let detail = error_detail(&body);
        match status {
            StatusCode::UNAUTHORIZED => {
                EndpointError::Unauthenticated { why: format!("answered 401{detail}") }
            }
            StatusCode::FORBIDDEN => EndpointError::Denied { detail },
            StatusCode::NOT_FOUND => EndpointError::NotFound { detail },
            _ => EndpointError::Status { status: status.as_u16(), detail, retry_after },
        }
    }
}

/// The span of one exchange. It ends with the head of the response. Queries have signatures, and so may the path of
/// another server after a redirect.
fn request_span(given: &HttpRequest, url: &Url) -> Span {
    let mut span = trace::client_span(|| format!("{} {}", given.method, url.authority()));
    span.set("http.request.method", || given.method.to_string());
    span.set("url.scheme", || url.scheme());
    span.set("server.address", || url.host().to_owned());
    span.set("server.port", || i64::from(url.port()));
    if url.same_server(&given.url) {
        span.set("url.path", || url.path().split('?').next().unwrap_or_default().to_owned());
    }
    span
}

const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("crisp/", env!("CARGO_PKG_VERSION")));

fn builder() -> hyper_util::client::legacy::Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder.pool_timer(TokioTimer::new());
    builder.timer(TokioTimer::new());
    builder.pool_idle_timeout(Duration::from_secs(15));
    builder.pool_max_idle_per_host(8);
    builder.http1_max_buf_size(READ_BUFFER);
    builder
}

fn redirect_target(response: &Response<Incoming>) -> Option<&str> {
    if matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        response.headers().get(header::LOCATION)?.to_str().ok()
    } else {
        None
    }
}
