//! How one server that speaks the distribution API is reached.

use std::time::Duration;

use http::HeaderName;

use super::secret::Secret;
use super::tls::TlsOptions;
use super::url::Url;

/// How one server that speaks the distribution API is reached.
#[derive(Debug, Clone)]
pub struct Host {
    /// Where the API is, up to and including `/v2` (or whatever `override_path` says).
    pub url: Url,
    /// The registry's own name, sent as `?ns=` so that a mirror of many registries knows which one is meant.
    pub namespace: Option<String>,
    /// Certificates.
    pub tls: TlsOptions,
    /// Sent with each request to this server. Values are secret: tokens live here.
    pub headers: Vec<(HeaderName, Secret)>,
    /// Replaces the usual time to open a connection.
    pub dial_timeout: Option<Duration>,
}

impl Host {
    /// A server without any options.
    #[must_use]
    pub fn new(url: Url) -> Self {
        let (namespace, tls, headers, dial_timeout) = (None, TlsOptions::default(), Vec::new(), None);
        Self { url, namespace, tls, headers, dial_timeout }
    }
}
