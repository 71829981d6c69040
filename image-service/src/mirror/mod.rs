//! Which endpoints serve a registry, in which order: the `hosts.toml` folders that containerd users have.
//!
//! ```text
//! <registry_config_dir>/registry.example.com/hosts.toml      a registry
//! <registry_config_dir>/registry.example.com_5000_/hosts.toml   with a port, or registry.example.com:5000
//! <registry_config_dir>/_default/hosts.toml                  every registry without its own folder
//! ```
//! The folder is read at each pull: a change needs no restart, and a mistake in one folder hurts only the
//! registry that it is for.

mod endpoint;
mod folder;
mod hosts_file;

use std::path::{Path, PathBuf};

pub use self::endpoint::{Endpoint, Why};
pub use self::hosts_file::HostsFileError;

use self::hosts_file::{Host, HostsFile};
use crate::reference::Reference;
use crate::registry::{InvalidUrl, TlsOptions, Url};

/// Why the endpoints of a registry are not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MirrorError {
    /// A file or folder that is there and cannot be read.
    #[error("{}: {why}", .path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// A hosts.toml that does not say what it means.
    #[error(transparent)]
    HostsFile(#[from] HostsFileError),
    /// The registry's own name gives no address.
    #[error("registry {registry}: {source}")]
    Registry {
        /// The registry of the reference.
        registry: String,
        /// What is wrong with it.
        source: InvalidUrl,
    },
}

/// The endpoints of one registry, in the order in which they are tried.
#[derive(Debug, Clone)]
pub struct Resolution {
    /// The registry of the reference.
    pub registry: String,
    /// The folder that decided, if any did.
    pub folder: Option<PathBuf>,
    /// At least one.
    pub endpoints: Vec<Endpoint>,
}

/// The tree of per-registry folders.
#[derive(Debug, Clone)]
pub struct Mirrors {
    dir: Option<PathBuf>,
}

impl Mirrors {
    /// The tree below `dir`; it need not exist.
    #[must_use]
    pub fn new(dir: Option<PathBuf>) -> Self {
        Self { dir }
    }

    /// The endpoints for `reference`, each with why it is there.
    ///
    /// # Errors
    /// [`MirrorError`] when the registry's folder has something in it that cannot be understood: a mirror
    /// is configured for a reason, so going past it would be worse than failing.
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
        let why = Why::Mirror(file.path.clone());
        endpoints.push(from_host(host, why, registry));
    }
    let own = own_url(registry, &file.server.tls)?;
    let (url, why) = match file.server_url {
        Some(url) => (url, Why::Server(file.path)),
        None => (own.clone(), Why::Registry),
    };
    let server = from_host(Host { url, ..file.server }, why, registry);
    // A mirror table for the registry's own address only gives it options: asking twice helps nobody.
    let listed = endpoints.iter_mut().find(|e| e.url == server.url || e.url == own);
    match listed {
        Some(own_entry) => {
            own_entry.why = server.why.clone();
            if own_entry.url != server.url {
                endpoints.push(server);
            }
        }
        None => endpoints.push(server),
    }
    for endpoint in endpoints {
        let own_server = endpoint.url.same_server(&own) || endpoint.url.authority() == registry;
        endpoint.namespace = (!own_server).then(|| registry.to_owned());
    }
    Ok(())
}

fn from_host(host: Host, why: Why, registry: &str) -> Endpoint {
    let Host { url, pull, resolve, tls, headers, dial_timeout } = host;
    Endpoint { url, why, pull, resolve, namespace: Some(registry.to_owned()), tls, headers, dial_timeout }
}

/// Certificates given for this machine itself mean that it does speak TLS.
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
    let url = own_url(registry, &tls)?;
    Ok(Endpoint {
        url,
        why: Why::Registry,
        pull: true,
        resolve: true,
        namespace: None,
        tls,
        headers: Vec::new(),
        dial_timeout: None,
    })
}

#[cfg(test)]
mod tests;
