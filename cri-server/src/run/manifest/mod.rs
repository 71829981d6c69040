//! Kubernetes manifests, read strictly: every field is supported, or accepted with a note that it has no
//! effect, or refused with its path.
//!
//! ```text
//!  file, folder, - --read.rs--> documents --workload.rs--> Pods (pod.rs, container.rs, volume.rs, ...)
//!                                        '--objects.rs---> ConfigMaps, Secrets, PersistentVolumeClaims
//! ```
//!
#![doc = include_str!("fields.md")]

mod action;
mod container;
mod dns;
mod env;
mod expand;
mod extra;
mod metadata;
mod nearest;
mod objects;
mod pod;
mod pod_check;
mod projection;
mod quantity;
mod read;
mod references;
mod refused_fields;
mod security;
mod strict_object;
mod volume;
mod workload;

use std::collections::BTreeMap;

pub use action::{Action, HttpGet, Lifecycle, PortRef, Probe, ProbeKind};
pub use container::{Container, Port, Propagation, Protocol, PullPolicy, VolumeMount};
pub use dns::{Dns, HostAlias};
pub use env::{EnvFrom, EnvSource, EnvVar, FieldPath, KeyRef};
pub use expand::expand;
pub use extra::{Device, EXTRA, Extra};
pub use metadata::is_dns_name;
pub use objects::{Data, Objects};
pub use pod::{BACKOFF_LIMIT, DnsPolicy, NETWORK_OF, Pod, RestartPolicy};
pub use projection::{FieldFile, FieldValue, KeyFile, Projected, Projection, is_inside};
pub use quantity::{ResourceKind, ResourceRef, Resources};
pub use read::{Manifests, from_documents, read};
pub use references::used;
pub use security::{ContainerSecurity, PodSecurity, Profile, SeLinux};
pub use volume::{HostPathKind, Volume, VolumeSource};
pub use workload::PodDocument;

/// Names with values: labels, annotations, sysctls.
pub type Map = BTreeMap<String, String>;

/// Reads the manifests in a text; `name` is used in errors.
///
/// # Errors
/// [`ManifestError`].
pub fn parse(name: &str, text: &str) -> Result<Manifests, ManifestError> {
    from_documents(name, read::split(name, text)?)
}

/// All problems of a manifest at once.
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
        /// The place and the error.
        message: String,
    },
    /// Crisp cannot run it.
    #[error("{path} cannot be run:\n{}", .problems.iter().map(|p| format!("  {p}")).collect::<Vec<_>>().join("\n"))]
    Refused {
        /// The file.
        path: String,
        /// One line each, beginning with the field's path.
        problems: Vec<String>,
    },
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_of_fields;
