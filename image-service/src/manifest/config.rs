//! The part of an image's configuration that a pull needs: its platform and its layers.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::ManifestError;
use super::platform::Platform;
use crate::digest::{DiffId, Digest};
use crate::excerpt::excerpt;

/// Limit for a configuration in bytes.
pub(crate) const MAX_CONFIG: u64 = 8 << 20;

/// The number of layers that overlayfs can stack (`OVL_MAX_STACK` of the kernel). Equal layers count once:
/// only the topmost one is visible, and only that is mounted.
pub(crate) const MAX_DISTINCT_LAYERS: usize = 500;

/// The part of a configuration that a pull needs. The store and the runtime read its other fields.
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
    config: Option<RawConfig>,
}

/// Accepts only an object: a structure could also be parsed from a list.
type RawConfig = BTreeMap<String, IgnoredAny>;

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Option<Vec<DiffId>>,
}

impl PulledConfig {
    /// Reads a verified configuration and compares it with the manifest that names it. Its platform does not
    /// count if an index has chosen the image by platform: the index's author may have corrected it.
    pub(crate) fn parse(
        bytes: &[u8],
        digest: &Digest,
        layers: usize,
        wanted: Option<&Platform>,
    ) -> Result<Self, ManifestError> {
        let raw: Raw = serde_json::from_slice(bytes)
            .map_err(|e| ManifestError::Config { digest: digest.clone(), why: excerpt(&e.to_string()) })?;
        drop(raw.config);
        if let Some(wanted) = wanted
            && !wanted.accepts(&raw.platform)
        {
            return Err(ManifestError::Platform { wanted: wanted.clone(), available: vec![raw.platform] });
        }
        let diff_ids = raw.rootfs.and_then(|r| r.diff_ids).unwrap_or_default();
        if diff_ids.len() != layers {
            let (digest, diff_ids) = (digest.clone(), diff_ids.len());
            return Err(ManifestError::LayerCount { digest, diff_ids, layers });
        }
        let distinct = diff_ids.iter().collect::<HashSet<_>>().len();
        if distinct > MAX_DISTINCT_LAYERS {
            let (digest, limit) = (digest.clone(), MAX_DISTINCT_LAYERS);
            return Err(ManifestError::TooManyLayers { digest, layers: distinct, limit });
        }
        Ok(Self { diff_ids })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str, layers: usize) -> Result<PulledConfig, ManifestError> {
        let wanted = Platform { os: "linux".into(), architecture: "amd64".into(), variant: "v3".into() };
        PulledConfig::parse(json.as_bytes(), &Digest::sha256(json.as_bytes()), layers, Some(&wanted))
    }

    #[test]
    fn more_layers_than_the_kernel_stacks_are_refused_before_they_are_downloaded() {
        let json = |layers: usize, distinct: usize| {
            let diff = |n: usize| format!("\"{}\"", Digest::sha256(&(n % distinct).to_le_bytes()));
            let diffs: Vec<String> = (0..layers).map(diff).collect();
            format!(r#"{{"rootfs":{{"diff_ids":[{}]}}}}"#, diffs.join(","))
        };
        assert!(parse(&json(500, 500), 500).is_ok());
        assert!(parse(&json(700, 500), 700).is_ok(), "the same layer is mounted once");
        let error = parse(&json(501, 501), 501).unwrap_err().to_string();
        assert!(error.contains("501 different layers") && error.contains("at most 500"), "{error}");
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
            (r#"{"config":[null]}"#.to_owned(), "expected a map"),
            ("[]".to_owned(), "malformed"),
        ] {
            let error = parse(&json, 1).unwrap_err().to_string();
            assert!(error.contains(part), "{json}: {error}");
        }
    }
}
