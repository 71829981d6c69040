//! Converts proto messages. Requests become validated types ([`pod`], [`container`]); state and readings
//! become responses ([`response`], [`stats`]). Only this folder, `rpc` and `filter.rs` use proto types.
//!
//! Every field of a request is supported, or refused by name, except these, which are ignored as
//! containerd ignores them:
//!
//! - SELinux options on a host without SELinux (`selinux.rs`);
//! - `linux.overhead` and `linux.resources` of a pod: kubelet has put them into the pod's cgroup already;
//! - user, groups, read-only root, seccomp and AppArmor of a pod: they are about a pause process, and there is
//!   none;
//! - port mappings and hostname of a pod in the host's network;
//! - seccomp, masked and read-only paths of a privileged container;
//! - `localhost_ref` of a profile of another type than Localhost, and `log_path` of a container whose pod has
//!   no log folder;
//! - `sandbox_config` of CreateContainer: it repeats the configuration that the pod was made with;
//! - `image.image_ref`, which only responses use, and `annotations` of UpdateContainerResources;
//! - `target_id` of a PID mode other than TARGET.

pub mod container;
pub(crate) mod diagnosis;
mod image;
pub mod mounts;
pub mod pod;
mod profile;
pub mod resources;
pub mod response;
pub mod security;
mod selinux;
pub mod signal;
pub mod stats;
pub mod streams;
mod user_namespace;

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Limit for the labels or the annotations of one pod, container or image, in bytes. Kubernetes allows 256 KiB. A list
/// has those of all, in a response of at most 16 MiB: no single one may fill it.
const MAX_TEXTS: usize = 512 << 10;

/// A field that cannot be accepted, with its path in the proto message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    #[error("{field}: {problem}")]
    Invalid { field: String, problem: String },
    /// A valid value that this server does not support. Ignoring it would not be what the client requested.
    #[error("{field}: not supported{hint}")]
    Unsupported { field: String, hint: String },
}

pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> ConvertError {
    ConvertError::Invalid { field: field.into(), problem: problem.into() }
}

/// `hint` continues the sentence "FIELD: not supported".
pub(crate) fn unsupported(field: impl Into<String>, hint: impl Into<String>) -> ConvertError {
    ConvertError::Unsupported { field: field.into(), hint: hint.into() }
}

fn required<T>(field: &str, value: Option<T>) -> Result<T, ConvertError> {
    value.ok_or_else(|| invalid(field, "missing"))
}

fn not_empty(field: &str, value: String) -> Result<String, ConvertError> {
    if value.is_empty() { Err(invalid(field, "empty")) } else { no_nul(field, value) }
}

/// Strings that become C strings.
fn no_nul(field: &str, value: String) -> Result<String, ConvertError> {
    if value.contains('\0') { Err(invalid(field, "holds a NUL byte")) } else { Ok(value) }
}

fn optional(field: &str, value: String) -> Result<Option<String>, ConvertError> {
    if value.is_empty() { Ok(None) } else { no_nul(field, value).map(Some) }
}

/// Labels or annotations.
fn texts(field: &str, values: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, ConvertError> {
    let size: usize = values.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size <= MAX_TEXTS {
        return Ok(values);
    }
    let largest = values.iter().max_by_key(|(key, value)| key.len() + value.len());
    let largest = largest.map(|(key, _)| key.chars().take(80));
    let largest: String = largest.into_iter().flatten().collect();
    Err(invalid(field, format!("{size} bytes, more than {MAX_TEXTS}; the largest is {largest:?}")))
}

fn absolute(field: &str, value: String) -> Result<PathBuf, ConvertError> {
    let value = not_empty(field, value)?;
    if value.starts_with('/') {
        Ok(value.into())
    } else {
        Err(invalid(field, format!("{value:?} is not an absolute path")))
    }
}

/// A user or group id. 2^32 - 1 is not valid: for the kernel it means "do not change".
fn id(field: &str, value: i64) -> Result<u32, ConvertError> {
    u32::try_from(value)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| invalid(field, format!("{value} is out of range: ids go from 0 to 4294967294")))
}
