//! A bundle: a folder with config.json and, usually, the root file system.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use oci_spec::runtime::Spec;

use crate::server::layout;

/// Limit for config.json; some kilobytes are usual.
const LONGEST: u64 = 16 << 20;
/// Of the versions 1.x; later ones give the fields of earlier ones the same meaning.
const MAJOR: &str = "1";

/// A bundle with a valid spec.
pub struct Bundle {
    /// Absolute.
    pub path: PathBuf,
    pub spec: Spec,
    /// Absolute.
    pub rootfs: PathBuf,
}

impl Bundle {
    /// # Errors
    /// The error names the file and the reason.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = fs::canonicalize(folder).with_context(|| format!("--bundle {}", folder.display()))?;
        let spec = read_spec(&layout::oci_config(&path))?;
        let root = spec.root().as_ref().context("root: missing in config.json")?;
        // `join` keeps an absolute path as it is.
        let rootfs = path.join(root.path());
        if !rootfs.is_dir() {
            bail!("root.path: {} is not a folder", rootfs.display());
        }
        Ok(Self { path, spec, rootfs })
    }
}

fn read_spec(path: &Path) -> anyhow::Result<Spec> {
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(|| format!("read {}", path.display()))?;
    file.take(LONGEST + 1).read_to_end(&mut bytes).with_context(|| format!("read {}", path.display()))?;
    if bytes.len() as u64 > LONGEST {
        bail!("{} is longer than {LONGEST} bytes", path.display());
    }
    let version: Version = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is no OCI runtime spec", path.display()))?;
    check_version(&version.oci_version).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is no OCI runtime spec", path.display()))
}

#[derive(serde::Deserialize)]
struct Version {
    #[serde(rename = "ociVersion")]
    oci_version: String,
}

fn check_version(version: &str) -> anyhow::Result<()> {
    let mut parts = version.split('.');
    match (parts.next(), parts.next().map(str::parse::<u32>), parts.next()) {
        (Some(MAJOR), Some(Ok(_)), Some(_)) => Ok(()),
        (Some(major), Some(Ok(_)), Some(_)) if major.parse::<u32>().is_ok() => {
            bail!("ociVersion: {version:?} is not supported: crisp knows the versions {MAJOR}.x")
        }
        _ => bail!("ociVersion: {version:?} is not a version such as 1.2.0"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_one_kind_are_understood() {
        for version in ["1.0.0", "1.0.2-dev", "1.2.1+dev", "1.9.0"] {
            assert!(check_version(version).is_ok(), "{version}");
        }
        for version in ["", "1", "1.0", "2.0.0", "0.9.0", "x.y.z", "1.x.0"] {
            assert!(check_version(version).is_err(), "{version}");
        }
    }
}
