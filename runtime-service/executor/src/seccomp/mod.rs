//! Seccomp: profiles in the OCI and docker formats, and their compilation to BPF.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Capabilities, LinuxSeccomp};

use crate::plan;

/// What is wrong with a profile.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    #[error("seccomp profile {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("seccomp profile {path}: {reason}", path = path.display())]
    Malformed { path: PathBuf, reason: String },
    #[error("{field}: {reason}")]
    Unsupported { field: String, reason: String },
}

/// The profile for containers that ask for RuntimeDefault and hold these capabilities (the bounding set).
#[must_use]
pub fn runtime_default(_capabilities: &Capabilities) -> LinuxSeccomp {
    LinuxSeccomp::default()
}

/// A profile from a file in the OCI or docker format, for a container that holds these capabilities.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn load_profile(path: &Path, _capabilities: &Capabilities) -> Result<LinuxSeccomp, SeccompError> {
    Err(SeccompError::Malformed { path: path.to_owned(), reason: "profiles are not built yet".to_owned() })
}

/// Compiles a profile for this machine.
///
/// # Errors
/// [`SeccompError::Unsupported`] naming the field.
pub fn to_bpf(_profile: &LinuxSeccomp) -> Result<plan::Seccomp, SeccompError> {
    Err(SeccompError::Unsupported {
        field: "linux.seccomp".to_owned(),
        reason: "is not built yet".to_owned(),
    })
}
