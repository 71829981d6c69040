//! Builds programs of Kubernetes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::Result;

const VERSION: &str = "v1.36.3";

/// A program of Kubernetes, named by the last part of its package.
pub type Program = &'static str;

pub const KUBELET: Program = "kubelet";
pub(super) const KUBECTL: Program = "kubectl";
pub(super) const API_SERVER: Program = "kube-apiserver";
pub const ALL: [Program; 3] = [KUBELET, KUBECTL, API_SERVER];

/// Whether the programs exist, or can be built.
#[must_use]
pub fn can_build(programs: &[Program]) -> bool {
    programs.iter().all(|program| binary(program).is_file()) || crisp_skip::program("go").is_some()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/kubernetes").join(VERSION)
}

pub(super) fn binary(program: Program) -> PathBuf {
    folder().join(program)
}

/// Locked during a build: tests run in parallel, and two builds would do the same work twice.
static BUILDING: Mutex<()> = Mutex::new(());

/// Builds the missing programs, at the version that `kubernetes/go.mod` pins.
///
/// # Errors
/// The error output of `go build`.
pub fn build(programs: &[Program]) -> Result<PathBuf> {
    let _one_at_a_time = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = folder();
    let missing: Vec<Program> =
        programs.iter().copied().filter(|program| !binary(program).is_file()).collect();
    if missing.is_empty() {
        return Ok(folder);
    }
    std::fs::create_dir_all(&folder)?;
    let partial = tempfile::Builder::new().prefix("partial-").tempdir_in(&folder)?;
    let package = "k8s.io/component-base/version";
    let flags =
        format!("-s -w -X {package}.gitVersion={VERSION} -X {package}.gitMajor=1 -X {package}.gitMinor=36");
    let go = crisp_skip::program("go").ok_or("go is not installed")?;
    let output = Command::new(go)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("kubernetes"))
        // Two at a time, each of which takes up to a gigabyte of memory.
        .args(["build", "-p", "2", "-ldflags", &flags, "-o"])
        .arg(format!("{}/", partial.path().display()))
        .args(missing.iter().map(|program| format!("k8s.io/kubernetes/cmd/{program}")))
        .env("CGO_ENABLED", "0")
        .output()?;
    if !output.status.success() {
        return Err(format!("go build {missing:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    for program in missing {
        std::fs::rename(partial.path().join(program), binary(program))?;
    }
    Ok(folder)
}
