//! One place that can serve a registry's content, and why it is tried.

use std::fmt;
use std::path::PathBuf;

use crate::registry::{Host, Url};

/// One place that can serve a registry's content.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// How it is reached.
    pub host: Host,
    /// Why this endpoint is in the list.
    pub why: EndpointOrigin,
    /// Can be asked for content by digest.
    pub pull: bool,
    /// Can be asked which digest a tag has.
    pub resolve: bool,
}

/// Why an endpoint is in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointOrigin {
    /// A `[host."…"]` table of this file.
    Mirror(PathBuf),
    /// The `server = ` of this file.
    Server(PathBuf),
    /// The registry itself: the file, if there is one, names no server.
    Registry,
}

/// What an endpoint must be able to do for a request: the `capabilities` of a hosts.toml.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Capability {
    /// Say which digest a tag has.
    Resolve,
    /// Give content by digest.
    Pull,
}

impl Endpoint {
    /// Where its API is.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.host.url
    }

    /// Whether this is the registry itself rather than a mirror. Its "not found" and "denied" are final,
    /// and the request's credentials are for it.
    #[must_use]
    pub fn is_registry(&self) -> bool {
        !matches!(self.why, EndpointOrigin::Mirror(_))
    }

    /// Whether its API is this one, however the addresses are written.
    pub(super) fn is_at(&self, url: &Url) -> bool {
        self.url().same_server(url) && self.url().path() == url.path()
    }

    /// Whether requests are sent to both in the same way.
    pub(super) fn has_options_of(&self, other: &Self) -> bool {
        let Host { url: _, namespace: _, tls, headers, dial_timeout } = &self.host;
        (self.pull, self.resolve) == (other.pull, other.resolve)
            && (tls, headers, dial_timeout)
                == (&other.host.tls, &other.host.headers, &other.host.dial_timeout)
    }

    /// Whether it can do everything, in the usual way.
    pub(super) fn has_no_options(&self) -> bool {
        let host = Host::new(self.url().clone());
        self.has_options_of(&Self { host, why: EndpointOrigin::Registry, pull: true, resolve: true })
    }

    pub(crate) fn can(&self, capability: Capability) -> bool {
        match capability {
            Capability::Resolve => self.resolve,
            Capability::Pull => self.pull,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.url().origin())?;
        match &self.why {
            EndpointOrigin::Mirror(file) => write!(f, " (mirror, {})", file.display()),
            EndpointOrigin::Server(file) => write!(f, " (server, {})", file.display()),
            EndpointOrigin::Registry => Ok(()),
        }
    }
}
