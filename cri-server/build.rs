//! Builds the monitor, `crisp-pod`, so that `include_bytes!` can put it into this binary.
//!
//! It is another build of another kind than ours: static, so that it needs no file of the host when it runs
//! inside a pod; without relocations, so that all pods share its pages; small. A build script's own cargo,
//! with its own target folder, is the only way to have both kinds come out of one `cargo build`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The sources of the monitor. When one of them changes, the monitor is built again.
const SOURCES: [&str; 6] = [
    "sandbox/monitor/src",
    "sandbox/monitor/Cargo.toml",
    "sandbox/executor/src",
    "sandbox/executor/Cargo.toml",
    "Cargo.toml",
    "Cargo.lock",
];

const RUSTFLAGS: [&str; 3] =
    ["-Ctarget-feature=+crt-static", "-Crelocation-model=static", "-Clink-arg=-Wl,--build-id=none"];

fn main() -> Result<(), String> {
    let root = PathBuf::from(var("CARGO_MANIFEST_DIR")?)
        .parent()
        .map(Path::to_owned)
        .ok_or("the crate is not in a workspace")?;
    for source in SOURCES {
        println!("cargo:rerun-if-changed={}", root.join(source).display());
    }
    let (out, target) = (PathBuf::from(var("OUT_DIR")?), var("TARGET")?);
    let folder = out.join("monitor");
    build(&root, &folder, &target)?;

    let built = folder.join(&target).join("release/crisp-pod");
    let copied = out.join("crisp-pod");
    std::fs::copy(&built, &copied).map_err(|e| format!("cannot copy {}: {e}", built.display()))?;
    println!("cargo:rustc-env=CRISP_POD={}", copied.display());
    Ok(())
}

fn build(root: &Path, folder: &Path, target: &str) -> Result<(), String> {
    let mut cargo = Command::new(var("CARGO")?);
    cargo
        .current_dir(root)
        // Everything it is made of is also part of the outer build, so it is downloaded already.
        .args(["build", "--package", "crisp-monitor", "--bin", "crisp-pod", "--locked", "--offline"])
        .args(["--release", "--target", target, "--target-dir"])
        .arg(folder)
        .args(["--config", "profile.release.opt-level='s'"])
        .args(["--config", "profile.release.lto='fat'"])
        .args(["--config", "profile.release.codegen-units=1"])
        .args(["--config", "profile.release.panic='abort'"])
        .args(["--config", "profile.release.strip=true"])
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\u{1f}"));
    // Of the outer cargo, clippy or test coverage: they are about our own crates, not about this binary.
    for name in
        ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_TARGET_DIR", "CARGO_BUILD_TARGET"]
    {
        cargo.env_remove(name);
    }
    let output = cargo.output().map_err(|e| format!("cannot run cargo for the monitor (crisp-pod): {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "building the monitor (crisp-pod) failed, {}; it is linked statically and needs the static C library \
         (Debian: libc6-dev) and an installed Rust target {target}. What cargo said:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    ))
}

fn var(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|e| format!("{name}: {e}; this build script is run by cargo"))
}
