//! The HTTP server behind the one-time URLs.
//!
//! ```text
//!  accept ─> (TLS) ─> request ─> upgrade headers agree? ─> token taken ─> 101 ─> session task ─> serve(session)
//!                        └─ 400, 403, 404: and the connection closes
//! ```

mod listen;
mod negotiate;
mod session;
mod tls;
mod tokens;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use self::tls::Certificates;
use self::tokens::{Offer, Tokens};
use crate::port_forward::PortForwardSession;
use crate::process::{ProcessRequest, ProcessSession};

pub use self::tls::TlsError;
pub use self::tokens::TooManySessions;

/// How streams are served.
#[derive(Debug, Clone)]
pub struct StreamConfig {
    /// Port 0 takes any.
    pub listen: SocketAddr,
    /// PEM files with the certificate chain and its key, read anew when they change. None: no TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// How long a URL is good for.
    pub url_lifetime: Duration,
    /// URLs that may wait for their use.
    pub max_urls: usize,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            tls: None,
            url_lifetime: Duration::from_secs(60),
            max_urls: 1000,
        }
    }
}

/// Why streams cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Serves sessions under one-time URLs. Clones are the same server; its sessions end with the last of them.
#[derive(Clone)]
pub struct StreamServer {
    inner: Arc<Inner>,
}

struct Inner {
    /// Of the URLs, without a path.
    base: String,
    tokens: Arc<Tokens>,
    accepting: JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl StreamServer {
    /// Listens.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(config: &StreamConfig) -> Result<Self, OpenError> {
        let certificates = match &config.tls {
            Some((chain, key)) => Some(Certificates::load(chain, key)?),
            None => None,
        };
        let fail = |source| OpenError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        let scheme = if certificates.is_some() { "https" } else { "http" };
        let tokens = Arc::new(Tokens::new(config.max_urls, config.url_lifetime));
        let accepting = tokio::spawn(listen::accept_all(listener, certificates, tokens.clone()));
        Ok(Self { inner: Arc::new(Inner { base: format!("{scheme}://{address}"), tokens, accepting }) })
    }

    /// The URLs' beginning, as in `http://127.0.0.1:40000`.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.inner.base
    }

    /// A URL for one session with a process. `kind` is a word in its path, for people; `serve` runs when
    /// the client has come and has all its streams.
    ///
    /// # Errors
    /// [`TooManySessions`].
    pub fn process<F>(
        &self,
        kind: &str,
        request: ProcessRequest,
        serve: impl FnOnce(ProcessSession) -> F + Send + 'static,
    ) -> Result<String, TooManySessions>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let serve = Box::new(|session| -> tokens::Serving { Box::pin(serve(session)) });
        self.offer(kind, Offer::Process { request, serve })
    }

    /// A URL for one port-forward session. A client that cannot name ports itself gets a connection to each
    /// of `ports`.
    ///
    /// # Errors
    /// [`TooManySessions`].
    pub fn port_forward<F>(
        &self,
        ports: Vec<u16>,
        serve: impl FnOnce(PortForwardSession) -> F + Send + 'static,
    ) -> Result<String, TooManySessions>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let serve = Box::new(|session| -> tokens::Serving { Box::pin(serve(session)) });
        self.offer("portforward", Offer::PortForward { ports, serve })
    }

    fn offer(&self, kind: &str, offer: Offer) -> Result<String, TooManySessions> {
        let token = self.inner.tokens.put(offer)?;
        Ok(format!("{}/{kind}/{token}", self.inner.base))
    }
}
