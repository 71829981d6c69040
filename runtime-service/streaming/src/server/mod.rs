//! The HTTP server behind the one-time URLs.
//!
//! ```text
//!  accept ─> (TLS) ─> request ─> upgrade headers agree? ─> token taken ─> 101 ─> session task ─> serve(session)
//!    |                   └─ 400, 403, 404; 503 when too many sessions are open: and the connection closes
//!    └─ too many without a token: the oldest of them is closed
//! ```

mod listen;
mod negotiate;
mod pending;
mod session;
mod tokens;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crisp_metrics::tls::{Certificates, TlsError, TlsFiles};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use self::listen::Listener;
use self::pending::PendingConnections;
use self::tokens::{Offer, Tokens};
use crate::port_forward::PortForwardSession;
use crate::process::{ProcessRequest, ProcessSession};
use crate::slots::{Limit, Slots};
use crate::transport::IdleLimits;
use crate::websocket::LARGE;

pub use self::tokens::TooManySessions;

/// The settings of the streaming server.
#[derive(Debug, Clone)]
pub struct StreamConfig {
    /// Port 0 selects any free port.
    pub listen: SocketAddr,
    /// PEM files with the certificate chain and its key, read again when they change. None: no TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// How long a URL is valid.
    pub url_lifetime: Duration,
    /// How many URLs may wait for their clients.
    pub urls: Limit,
    /// How many sessions may be open. A session over a WebSocket holds a message of up to 2 MiB; two sessions
    /// per owner, and eight in total, may hold up to 32 MiB.
    pub sessions: Limit,
    /// How many streams may be open in all port-forward sessions; one session may have 1024. Each holds at
    /// most 128 kB of unread data. A connection has two streams, or one when the client names its ports at
    /// the start.
    pub streams: Limit,
    /// How many connections may be open that have shown no token; when there are more, the oldest is closed.
    pub max_pending: usize,
    /// A session in which no bytes are sent in either direction for this long ends, as in kubelet.
    pub idle: Duration,
    /// How long a client that has received everything may take to close its connection.
    pub closing: Duration,
    /// A forwarded connection that takes nothing for this long, although its client has sent more than its
    /// window, is reset: with clients that know no windows, all others of the session wait for it. When it is
    /// the only connection, the limit is forty times as long.
    pub stalled: Duration,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            tls: None,
            url_lifetime: Duration::from_secs(60),
            urls: Limit { each: 256, all: 1024 },
            sessions: Limit { each: 256, all: 1024 },
            streams: Limit { each: 1024, all: 4096 },
            max_pending: 256,
            idle: Duration::from_secs(4 * 60 * 60),
            closing: Duration::from_secs(5),
            stalled: Duration::from_secs(15),
        }
    }
}

/// The reason why streams cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The limits of all sessions.
#[derive(Clone)]
struct SessionLimits {
    streams: Arc<Slots>,
    /// The slots for long messages.
    large: Arc<Slots>,
    idle_limits: IdleLimits,
    stalled: Duration,
}

/// Serves sessions at one-time URLs. Clones share one server; its sessions end when the last clone is
/// dropped.
#[derive(Clone)]
pub struct StreamServer {
    inner: Arc<Inner>,
}

struct Inner {
    /// The beginning of the URLs, without a path.
    base: String,
    tokens: Arc<Tokens>,
    certificates: Option<Arc<Certificates>>,
    accepting: JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl StreamServer {
    /// Begins to listen.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(config: &StreamConfig) -> Result<Self, OpenError> {
        let certificates = match &config.tls {
            Some((chain, key)) => Some(Certificates::load(TlsFiles {
                chain: chain.clone(),
                key: key.clone(),
                client_ca: None,
            })?),
            None => None,
        };
        let fail = |source| OpenError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        let scheme = if certificates.is_some() { "https" } else { "http" };
        let tokens = Arc::new(Tokens::new(config.urls, config.url_lifetime));
        let listening = Listener {
            listener,
            certificates: certificates.clone(),
            tokens: tokens.clone(),
            pending: PendingConnections::new(config.max_pending),
            sessions: Slots::new(config.sessions),
            limits: SessionLimits {
                streams: Slots::new(config.streams),
                large: Slots::new(LARGE),
                idle_limits: IdleLimits { idle: Some(config.idle), closing: Some(config.closing) },
                stalled: config.stalled,
            },
        };
        let accepting = tokio::spawn(listening.accept_all());
        let base = format!("{scheme}://{address}");
        Ok(Self { inner: Arc::new(Inner { base, tokens, certificates, accepting }) })
    }

    /// The URLs' beginning, as in `http://127.0.0.1:40000`.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.inner.base
    }

    /// The certificate that clients of `https` URLs get at present, in PEM. None when URLs are `http`. May
    /// read the certificate's file.
    #[must_use]
    pub fn certificate(&self) -> Option<String> {
        self.inner.certificates.as_ref().map(|certificates| certificates.pem())
    }

    /// Makes a URL for one session with a process. The sessions of one `owner` are counted together. `kind`
    /// is a word in the URL's path that makes it readable; `serve` runs when the client has connected and has
    /// opened all its streams.
    ///
    /// # Errors
    /// [`TooManySessions`].
    pub fn process<F>(
        &self,
        owner: &str,
        kind: &str,
        request: ProcessRequest,
        serve: impl FnOnce(ProcessSession) -> F + Send + 'static,
    ) -> Result<String, TooManySessions>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let serve = Box::new(|session| -> tokens::Serving { Box::pin(serve(session)) });
        self.offer(owner, kind, Offer::Process { request, serve })
    }

    /// Makes a URL for one port-forward session. A client that cannot name ports itself gets a connection to
    /// each of `ports`.
    ///
    /// # Errors
    /// [`TooManySessions`].
    pub fn port_forward<F>(
        &self,
        owner: &str,
        ports: Vec<u16>,
        serve: impl FnOnce(PortForwardSession) -> F + Send + 'static,
    ) -> Result<String, TooManySessions>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let serve = Box::new(|session| -> tokens::Serving { Box::pin(serve(session)) });
        self.offer(owner, "portforward", Offer::PortForward { ports, serve })
    }

    fn offer(&self, owner: &str, kind: &str, offer: Offer) -> Result<String, TooManySessions> {
        let token = self.inner.tokens.put(owner.into(), offer)?;
        Ok(format!("{}/{kind}/{token}", self.inner.base))
    }
}
