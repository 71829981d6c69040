//! Seccomp: profiles in the OCI and docker formats, and their compilation to BPF.
//!
//! ```text
//!  runtime_default(capabilities)  --+
//!                                   +--> LinuxSeccomp --to_bpf--> plan::Seccomp --> the executor
//!  load_profile(file, capabilities) +
//! ```
//!
//! `table.rs` has the calls, `filter.rs` makes the program, `condition.rs` compares arguments.

mod arch;
mod bpf;
mod condition;
mod default;
mod filter;
mod profile;
mod table;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use oci_spec::runtime::{Capabilities, LinuxSeccomp, LinuxSeccompFilterFlag as Flag};

use crate::plan;

/// An error in a profile.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    #[error("seccomp profile {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("seccomp profile {path}: {reason}", path = path.display())]
    Malformed { path: PathBuf, reason: String },
    #[error("{field}: {reason}")]
    Unsupported { field: String, reason: String },
}

/// Makes the profile for containers that request RuntimeDefault and have these capabilities (the bounding
/// set).
#[must_use]
pub fn runtime_default(capabilities: &Capabilities) -> LinuxSeccomp {
    default::profile(capabilities, arch::Arch::native())
}

/// Reads a profile from a file in the OCI or docker format, for a container that has these capabilities.
///
/// # Errors
/// The error names the file and the problem.
pub fn load_profile(path: &Path, capabilities: &Capabilities) -> Result<LinuxSeccomp, SeccompError> {
    profile::load(path, &profile::Context::of_this_machine(capabilities))
}

/// Reads a profile's file and compiles it.
#[cfg(feature = "fuzz")]
pub(crate) fn read_and_compile(bytes: &[u8]) {
    let capabilities = Capabilities::default();
    let context = profile::Context::of_this_machine(&capabilities);
    if let Ok(profile) = profile::parse(bytes, &context) {
        let _ = compile(&profile);
    }
}

/// Compiles a profile for this machine. Most containers of a node share a few profiles, so programs are
/// cached by the profile's content.
///
/// # Errors
/// [`SeccompError::Unsupported`] with the field.
pub fn to_bpf(profile: &LinuxSeccomp) -> Result<plan::Seccomp, SeccompError> {
    static KNOWN: LazyLock<Mutex<HashMap<Vec<u8>, plan::Seccomp>>> = LazyLock::new(Mutex::default);
    const MOST: usize = 64;

    let key = serde_json::to_vec(profile).map_err(|e| SeccompError::Unsupported {
        field: "linux.seccomp".to_owned(),
        reason: e.to_string(),
    })?;
    if let Some(known) = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
        return Ok(known.clone());
    }
    let compiled = compile(profile)?;
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() >= MOST {
        known.clear();
    }
    known.insert(key, compiled.clone());
    Ok(compiled)
}

fn compile(profile: &LinuxSeccomp) -> Result<plan::Seccomp, SeccompError> {
    if profile.listener_path().is_some() {
        let field = "linux.seccomp.listenerPath".to_owned();
        return Err(SeccompError::Unsupported {
            field,
            reason: "notifications are not supported".to_owned(),
        });
    }
    let flags = flags(profile.flags().as_deref().unwrap_or_default())?;
    Ok(plan::Seccomp { program: bpf::to_bytes(&filter::program(profile, arch::Arch::native())?), flags })
}

/// SECCOMP_FILTER_FLAG_ bits, linux/seccomp.h.
fn flags(given: &[Flag]) -> Result<u32, SeccompError> {
    let mut bits = 0;
    for flag in given {
        bits |= match flag {
            Flag::SeccompFilterFlagTsync => 1,
            Flag::SeccompFilterFlagLog => 2,
            Flag::SeccompFilterFlagSpecAllow => 4,
            Flag::SeccompFilterFlagWaitKillableRecv => {
                let field = "linux.seccomp.flags".to_owned();
                let reason =
                    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV is for notifications, which are not supported";
                return Err(SeccompError::Unsupported { field, reason: reason.to_owned() });
            }
        };
    }
    Ok(bits)
}
