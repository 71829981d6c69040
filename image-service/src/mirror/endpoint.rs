//! A server with a registry's content, and the reason for using it.

use std::fmt;
use std::path::PathBuf;

use crate::registry::{Host, Url};

/// A server with a registry's content.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Its address and connection settings.
    pub host: Host,
    /// The reason why it is in the list.
    pub why: EndpointOrigin,
    /// Serves content by digest.
    pub pull: bool,
    /// Resolves tags to digests.
    pub resolve: bool,
}

/// The reason why an endpoint is in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointOrigin {
    /// A `[host."…"]` table of this file.
    Mirror(PathBuf),
    /// The `server = ` of this file.
    Server(PathBuf),
    /// The registry itself: the file, if there is one, names no server.
    Registry,
}

/// A capability that a request needs: as in the `capabilities` of a hosts.toml.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Capability {
    /// Resolves tags to digests.
    Resolve,
    /// Serves content by digest.
    Pull,
}

impl Endpoint {
    /// The address of its API.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.host.url
    }

    /// Whether this is the registry itself and not a mirror. Its "not found" and "denied" are final, and it
    /// may get the request's credentials.
    #[must_use]
    pub fn is_registry(&self) -> bool {
        !matches!(self.why, EndpointOrigin::Mirror(_))
    }

    /// Whether its API is at `url`, in any notation.
    pub(super) fn is_at(&self, url: &Url) -> bool {
        self.url().same_server(url) && self.url().path() == url.path()
    }

    /// Whether both have the same options for requests.
    pub(super) fn has_options_of(&self, other: &Self) -> bool {
        let Host { url: _, namespace: _, tls, headers, dial_timeout } = &self.host;
        (self.pull, self.resolve) == (other.pull, other.resolve)
            && (tls, headers, dial_timeout)
                == (&other.host.tls, &other.host.headers, &other.host.dial_timeout)
    }

    /// Whether it has all capabilities and no options.
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
