//! A Kubernetes Pod manifest, read strictly: every field is understood or refused with its path.

mod container;
mod dns_name;
mod expand;

mod object;
mod pod;
mod quantity;
mod security;
mod unsupported_fields;
mod volume;

use std::collections::BTreeMap;
use std::path::Path;

pub use container::{Container, Port, Propagation, Protocol, PullPolicy, VolumeMount};
pub use expand::expand;
use object::{Object, Problems};
pub use pod::{DnsPolicy, Pod, RestartPolicy};
pub use quantity::Resources;
pub use security::{ContainerSecurity, PodSecurity, Profile, SeLinux};
pub use volume::{HostPathKind, Volume, VolumeSource};

/// Names with values: labels, annotations, sysctls.
pub type Map = BTreeMap<String, String>;

/// Why a manifest cannot be run: all that is wrong with it at once.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// It is not YAML.
    #[error("{path} is not YAML: {message}")]
    Yaml {
        /// The file.
        path: String,
        /// Where and what.
        message: String,
    },
    /// It is not one Pod that can be run here.
    #[error("{path} cannot be run:\n{}", .problems.iter().map(|p| format!("  {p}")).collect::<Vec<_>>().join("\n"))]
    Refused {
        /// The file.
        path: String,
        /// One line each, beginning with the field's path.
        problems: Vec<String>,
    },
}

/// Reads the manifest in a file; `-` is standard input.
///
/// # Errors
/// [`ManifestError`].
pub fn read(path: &Path) -> Result<Pod, ManifestError> {
    let name = path.display().to_string();
    let text =
        if name == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) };
    let text = text.map_err(|source| ManifestError::Read { path: name.clone(), source })?;
    parse(&name, &text)
}

/// Reads a manifest; `name` is for errors.
///
/// # Errors
/// [`ManifestError`].
pub fn parse(name: &str, text: &str) -> Result<Pod, ManifestError> {
    let value: serde_json::Value = serde_saphyr::from_str(text)
        .map_err(|e| ManifestError::Yaml { path: name.to_owned(), message: e.to_string() })?;
    let problems = Problems::default();
    let pod = Object::root(&value, &problems).and_then(|root| pod::pod(&root));
    match (pod, problems.take()) {
        (Some(pod), problems) if problems.is_empty() => Ok(pod),
        (_, problems) => Err(ManifestError::Refused { path: name.to_owned(), problems }),
    }
}

#[cfg(test)]
mod tests;
