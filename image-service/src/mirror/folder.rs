//! Finds the folder of a registry, and the certificates in a folder without a hosts.toml.

use std::path::{Path, PathBuf};

use super::MirrorError;
use crate::registry::{ClientPair, TlsOptions};

/// The registry's own folder, or else the one for all others. A registry's name has no `/` and is not `..`
/// (see [`crate::Reference`]), so the path stays inside `dir`.
pub(super) fn find(dir: &Path, registry: &str) -> Option<PathBuf> {
    let mut names = Vec::with_capacity(4);
    if let Some((host, port)) = registry.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
        names.push(format!("{host}_{port}_"));
    }
    names.push(registry.to_owned());
    names.push("_default".to_owned());
    names.into_iter().map(|name| dir.join(name)).find(|path| path.is_dir())
}

/// Docker's convention: `*.crt` are authorities, `x.cert` with `x.key` is a client certificate.
pub(super) fn certificates(folder: &Path) -> Result<TlsOptions, MirrorError> {
    let fail = |path: &Path, why: String| MirrorError::Read { path: path.to_owned(), why };
    let mut options = TlsOptions::default();
    let mut paths = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>())
        .map_err(|e| fail(folder, e.to_string()))?;
    paths.sort();
    for path in &paths {
        match path.extension().and_then(|e| e.to_str()) {
            Some("crt") => options.ca.push(path.clone()),
            Some("cert") => {
                let key = path.with_extension("key");
                if !key.exists() {
                    return Err(fail(path, format!("its key {} is missing", key.display())));
                }
                options.client.push(ClientPair { cert: path.clone(), key: Some(key) });
            }
            _ => {}
        }
    }
    Ok(options)
}
