//! The part of an image's configuration that a pull needs: its platform and its layers.

use serde::Deserialize;

use super::ManifestError;
use super::platform::Platform;
use crate::digest::{DiffId, Digest};

/// Largest configuration accepted.
pub(crate) const MAX_CONFIG: u64 = 8 << 20;

/// What a pull needs of a configuration. Its other fields are the store's and the runtime's business.
#[derive(Debug)]
pub(crate) struct PulledConfig {
    /// Bottom first, one for each layer of the manifest.
    pub(crate) diff_ids: Vec<DiffId>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(flatten)]
    platform: Platform,
    rootfs: Option<RawRootfs>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Option<Vec<DiffId>>,
}

impl PulledConfig {
    /// Reads a verified configuration and holds it against the manifest that names it.
    pub(crate) fn parse(
        bytes: &[u8],
        digest: &Digest,
        layers: usize,
        wanted: &Platform,
    ) -> Result<Self, ManifestError> {
        let raw: Raw = serde_json::from_slice(bytes)
            .map_err(|e| ManifestError::Config { digest: digest.clone(), why: e.to_string() })?;
        if !wanted.accepts(&raw.platform) {
            return Err(ManifestError::Platform { wanted: wanted.clone(), available: vec![raw.platform] });
        }
        let diff_ids = raw.rootfs.and_then(|r| r.diff_ids).unwrap_or_default();
        if diff_ids.len() != layers {
            let (digest, diff_ids) = (digest.clone(), diff_ids.len());
            return Err(ManifestError::LayerCount { digest, diff_ids, layers });
        }
        Ok(Self { diff_ids })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str, layers: usize) -> Result<PulledConfig, ManifestError> {
        let wanted = Platform { os: "linux".into(), architecture: "amd64".into(), variant: "v3".into() };
        PulledConfig::parse(json.as_bytes(), &Digest::sha256(json.as_bytes()), layers, &wanted)
    }

    #[test]
    fn layers_and_platform_must_fit() {
        let diff = Digest::sha256(b"x");
        let json = format!(
            r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":["{diff}"]}}}}"#
        );
        assert_eq!(parse(&json, 1).unwrap().diff_ids, [DiffId::from(diff)]);
        for (json, part) in [
            (json.replace("amd64", "riscv64"), "there is linux/riscv64"),
            (r#"{"rootfs":{"diff_ids":[]}}"#.to_owned(), "names 0 layers, the manifest 1"),
            (r#"{"rootfs":{"diff_ids":null}}"#.to_owned(), "names 0 layers"),
            ("{}".to_owned(), "names 0 layers"),
            (r#"{"rootfs":{"diff_ids":["sha256:x"]}}"#.to_owned(), "64 lower-case"),
            ("[]".to_owned(), "malformed"),
        ] {
            let error = parse(&json, 1).unwrap_err().to_string();
            assert!(error.contains(part), "{json}: {error}");
        }
    }
}
