//! Address and connection settings of one server with the distribution API.

use std::time::Duration;

use http::HeaderName;

use super::secret::Secret;
use super::tls::TlsOptions;
use super::url::Url;

/// Address and connection settings of one server with the distribution API.
#[derive(Debug, Clone)]
pub struct Host {
    /// The address of the API, including `/v2` (or the path of `override_path`).
    pub url: Url,
    /// The registry's own name, sent as `?ns=` to a mirror of many registries.
    pub namespace: Option<String>,
    /// Certificates.
    pub tls: TlsOptions,
    /// Headers for each request to this server. Values are secret, because they may be tokens.
    pub headers: Vec<(HeaderName, Secret)>,
    /// Replaces the default time limit for a connection.
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
