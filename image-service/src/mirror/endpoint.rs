//! One place that can serve a registry's content, and why it is asked.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;

use crate::registry::{Secret, TlsOptions, Url};

/// One place that can serve a registry's content.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Where the API is, up to and including `/v2` (or whatever `override_path` says).
    pub url: Url,
    /// Why this endpoint is in the list.
    pub why: Why,
    /// May be asked for content by digest.
    pub pull: bool,
    /// May be asked what a tag stands for.
    pub resolve: bool,
    /// The registry's own name, sent as `?ns=` so that a mirror of many knows which one is meant.
    pub namespace: Option<String>,
    /// Certificates.
    pub tls: TlsOptions,
    /// Sent with each request to this server. Values are secret: tokens live here.
    pub headers: Vec<(HeaderName, Secret)>,
    /// Replaces the usual time to open a connection.
    pub dial_timeout: Option<Duration>,
}

/// Why an endpoint is in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// A `[host."…"]` table of this file.
    Mirror(PathBuf),
    /// The `server = ` of this file.
    Server(PathBuf),
    /// The registry itself: the file, if there is one, names no server.
    Registry,
}

impl Endpoint {
    /// Whether this is the registry itself rather than a mirror: its word on "not found" and "denied" is
    /// final, and the request's credentials are for it.
    #[must_use]
    pub fn is_registry(&self) -> bool {
        !matches!(self.why, Why::Mirror(_))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.url.origin())?;
        match &self.why {
            Why::Mirror(file) => write!(f, " (mirror, {})", file.display()),
            Why::Server(file) => write!(f, " (server, {})", file.display()),
            Why::Registry => Ok(()),
        }
    }
}
