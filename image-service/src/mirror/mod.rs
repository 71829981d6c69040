//! Mirrors: the endpoints of a registry, the order in which they are tried, and the reaction to a failure.
//!
//! | file | what it does |
//! |---|---|
//! | `mod.rs`, `folder.rs`, `hosts_toml.rs` | read the `hosts.toml` folders that containerd users have |
//! | `failover.rs` | tries one endpoint after the other: the order, the pauses, the end |
//! | `sources.rs` | the endpoints of one pull, and the failures of each |
//! | `download.rs` | one blob: resumed after a cut, continued at the next endpoint, verified |
//!
//! ```text
//! <registry_config_dir>/registry.example.com/hosts.toml      a registry
//! <registry_config_dir>/registry.example.com_5000_/hosts.toml   with a port, or registry.example.com:5000
//! <registry_config_dir>/_default/hosts.toml                  every registry without its own folder
//! ```
//! The folder is read at each pull: a change needs no restart, and an error in one folder only affects its
//! registry.

mod download;
mod endpoint;
mod error;
mod failover;
mod folder;
mod hosts_toml;
mod metrics;
mod pipe;
mod request;
mod sources;

use std::path::{Path, PathBuf};

pub use self::endpoint::{Endpoint, EndpointOrigin};
pub use self::error::{AllFailed, EndpointFailure};
pub use self::hosts_toml::HostsFileError;
pub use self::sources::RetryPolicy;

pub(crate) use self::download::{Download, DownloadError, DownloadEvent};
pub(crate) use self::failover::Failover;
pub(crate) use self::metrics::MirrorMetrics;
pub(crate) use self::pipe::pipe;
pub(crate) use self::request::{ManifestByDigest, ManifestOf, ResolveDigest, SmallBlob};
pub(crate) use self::sources::Sources;

use self::hosts_toml::{HostEntry, HostsFile};
use crate::reference::Reference;
use crate::registry::{Host, InvalidUrl, TlsOptions, Url};

/// The reason why the endpoints of a registry are not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MirrorError {
    /// A file or folder exists but cannot be read.
    #[error("{}: {why}", .path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's message.
        why: String,
    },
    /// A hosts.toml is not valid.
    #[error(transparent)]
    HostsFile(#[from] HostsFileError),
    /// The registry's name is not a valid address.
    #[error("registry {registry}: {source}")]
    Registry {
        /// The registry of the reference.
        registry: String,
        /// The reason.
        source: InvalidUrl,
    },
}

/// The endpoints of one registry, in the order in which they are tried.
#[derive(Debug, Clone)]
pub struct Resolution {
    /// The registry of the reference.
    pub registry: String,
    /// The folder that was used, if there is one.
    pub folder: Option<PathBuf>,
    /// At least one.
    pub endpoints: Vec<Endpoint>,
}

/// The tree of per-registry folders.
#[derive(Debug, Clone)]
pub struct Mirrors {
    dir: Option<PathBuf>,
}

/// Reads a hosts.toml.
#[cfg(feature = "fuzz")]
pub(crate) fn parse_hosts_file(text: &str, path: &Path) {
    let _ = HostsFile::parse(text, path);
}

impl Mirrors {
    /// The tree below `dir`; it need not exist.
    #[must_use]
    pub fn new(dir: Option<PathBuf>) -> Self {
        Self { dir }
    }

    /// The endpoints for `reference`, each with the reason for it.
    ///
    /// # Errors
    /// [`MirrorError`] when the registry's folder has an invalid file: mirrors are configured for a reason,
    /// so ignoring them would be worse than failing.
    pub fn resolve(&self, reference: &Reference) -> Result<Resolution, MirrorError> {
        let registry = reference.registry();
        let folder = self.dir.as_deref().and_then(|dir| folder::find(dir, registry));
        let mut endpoints = Vec::new();
        match &folder {
            None => endpoints.push(own_endpoint(registry, TlsOptions::default())?),
            Some(folder) => match read_hosts_file(folder)? {
                Some(file) => from_file(file, registry, &mut endpoints)?,
                None => endpoints.push(own_endpoint(registry, folder::certificates(folder)?)?),
            },
        }
        Ok(Resolution { registry: registry.to_owned(), folder, endpoints })
    }
}

fn read_hosts_file(folder: &Path) -> Result<Option<HostsFile>, MirrorError> {
    let path = folder.join("hosts.toml");
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(HostsFile::parse(&text, &path)?)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(MirrorError::Read { path, why: e.to_string() }),
    }
}

fn from_file(file: HostsFile, registry: &str, endpoints: &mut Vec<Endpoint>) -> Result<(), MirrorError> {
    for host in file.mirrors {
        let why = EndpointOrigin::Mirror(file.path.clone());
        endpoints.push(from_entry(host, why));
    }
    let own = own_url(registry, &file.server.host.tls)?;
    let (url, why) = match file.server_url {
        Some(url) => (url, EndpointOrigin::Server(file.path)),
        None => (own.clone(), EndpointOrigin::Registry),
    };
    let mut server = from_entry(file.server, why);
    server.host.url = url;
    // A table for the registry's own address sets its options. If the server at the top of the file then has
    // none, it is not added again.
    let says_nothing = matches!(server.why, EndpointOrigin::Registry) && server.has_no_options();
    let covers = |e: &Endpoint| e.has_options_of(&server) || (says_nothing && e.pull && e.resolve);
    let is_server = |e: &Endpoint| e.is_at(server.url());
    // The registry itself remains the registry when it is listed before another server.
    for listed in endpoints.iter_mut().filter(|e| e.is_at(&own) && !is_server(e)) {
        listed.why = server.why.clone();
    }
    match endpoints.iter_mut().find(|e| is_server(e) && covers(e)) {
        Some(listed) => listed.why = server.why,
        None => endpoints.push(server),
    }
    for endpoint in endpoints {
        let url = &endpoint.host.url;
        let own_server = url.same_server(&own) || url.authority() == registry;
        endpoint.host.namespace = (!own_server).then(|| registry.to_owned());
    }
    Ok(())
}

fn from_entry(entry: HostEntry, why: EndpointOrigin) -> Endpoint {
    let HostEntry { host, pull, resolve } = entry;
    Endpoint { host, why, pull, resolve }
}

/// Certificates for an address of this machine mean that it uses TLS.
fn own_url(registry: &str, tls: &TlsOptions) -> Result<Url, MirrorError> {
    let parse = || {
        let url = Url::of_registry(registry)?;
        if *tls == TlsOptions::default() {
            Ok(url)
        } else {
            Url::parse(&format!("https://{}", url.authority()))
        }
    };
    let url = parse().map_err(|source| MirrorError::Registry { registry: registry.to_owned(), source })?;
    Ok(url.with_path("/v2"))
}

fn own_endpoint(registry: &str, tls: TlsOptions) -> Result<Endpoint, MirrorError> {
    let host = Host { tls: tls.clone(), ..Host::new(own_url(registry, &tls)?) };
    Ok(Endpoint { host, why: EndpointOrigin::Registry, pull: true, resolve: true })
}

#[cfg(test)]
mod tests;
