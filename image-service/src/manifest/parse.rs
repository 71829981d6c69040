//! Parses bytes into an image manifest or an index.

use serde::Deserialize;

use super::ManifestError;
use super::platform::Platform;
use crate::digest::Digest;
use crate::excerpt::excerpt;
use crate::registry::RawManifest;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const SCHEMA1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];
const LAYER_TYPES: [&str; 6] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Types that registries gave to configurations when schema 2 was new; docker takes them too.
const LEGACY_CONFIGS: [&str; 4] = ["application/octet-stream", "application/json", "text/html", ""];
/// Limit for layers in one manifest, equal ones included; only the configuration shows which are equal. It
/// bounds the work before the configuration is known.
const MAX_LAYERS: usize = 4 * super::config::MAX_DISTINCT_LAYERS;
/// Larger than any layer, and small enough that sums of sizes do not overflow.
const MAX_LAYER: u64 = 1 << 44;

/// A manifest or an index.
#[derive(Debug)]
pub(crate) enum Document {
    /// One image for one platform.
    Image(ImageManifest),
    /// Images for several platforms.
    Index(Vec<IndexEntry>),
}

/// One platform's image.
#[derive(Debug)]
pub(crate) struct ImageManifest {
    pub(crate) config: Blob,
    /// Bottom first.
    pub(crate) layers: Vec<Layer>,
}

/// Content by digest and size.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// A layer as it is transferred. Its first bytes, not its media type, tell its compression.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) blob: Blob,
}

/// One line of an index.
#[derive(Debug, Clone)]
pub(crate) struct IndexEntry {
    pub(crate) blob: Blob,
    pub(crate) platform: Option<Platform>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u32>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    media_type: Option<String>,
    digest: Digest,
    size: u64,
    platform: Option<Platform>,
    #[serde(default)]
    urls: Vec<String>,
}

impl Document {
    /// Reads a verified manifest.
    pub(crate) fn parse(manifest: &RawManifest) -> Result<Self, ManifestError> {
        let digest = &manifest.digest;
        let malformed = |why: String| ManifestError::Malformed { digest: digest.clone(), why: excerpt(&why) };
        if manifest.content_type.as_deref().is_some_and(|t| SCHEMA1.contains(&t)) {
            return Err(ManifestError::Schema1);
        }
        let raw: Raw = serde_json::from_slice(&manifest.bytes).map_err(|e| malformed(e.to_string()))?;
        if raw.schema_version == Some(1) || raw.fs_layers.is_some() {
            return Err(ManifestError::Schema1);
        }
        if raw.layers.is_some() && raw.manifests.is_some() {
            return Err(malformed("it is an image and an index at once".to_owned()));
        }
        let is_index = is_index(&raw, manifest.content_type.as_deref(), digest)?;
        match (is_index, raw.manifests, raw.config) {
            (true, Some(entries), _) => {
                Ok(Self::Index(entries.into_iter().filter_map(index_entry).collect()))
            }
            (true, None, _) => Err(malformed("an index without manifests".to_owned())),
            (false, _, Some(config)) => {
                image(config, raw.layers.unwrap_or_default(), raw.artifact_type, digest).map(Self::Image)
            }
            (false, _, None) => Err(malformed("an image without a configuration".to_owned())),
        }
    }
}

/// Content type and media type must agree about the kind, or one registry's image would be another's index.
/// Docker's and the OCI's names of one kind are equal: registries convert between them.
fn is_index(raw: &Raw, content_type: Option<&str>, digest: &Digest) -> Result<bool, ManifestError> {
    let known = |t: &str| match t {
        OCI_MANIFEST | DOCKER_MANIFEST => Some(false),
        OCI_INDEX | DOCKER_LIST => Some(true),
        _ => None,
    };
    let inside = raw.media_type.as_deref();
    let outside = content_type.filter(|t| known(t).is_some());
    if let (Some(inside), Some(outside)) = (inside, outside)
        && known(inside).is_some_and(|kind| Some(kind) != known(outside))
    {
        let (inside, outside) = (excerpt(inside), excerpt(outside));
        return Err(ManifestError::Contradiction { digest: digest.clone(), inside, outside });
    }
    match inside.or(outside) {
        Some(text) => known(text)
            .ok_or_else(|| ManifestError::MediaType { digest: digest.clone(), media_type: excerpt(text) }),
        // Old OCI tools wrote no media type, and plain file servers send none.
        None => Ok(raw.manifests.is_some()),
    }
}

/// `None` for an entry that is not an image: attestations and the like have the platform unknown/unknown.
fn index_entry(raw: RawDescriptor) -> Option<IndexEntry> {
    let image_or_index = match raw.media_type.as_deref() {
        Some(OCI_MANIFEST | OCI_INDEX | DOCKER_MANIFEST | DOCKER_LIST) | None => true,
        Some(_) => false,
    };
    let unknown = raw.platform.as_ref().is_some_and(|p| p.os == "unknown" || p.architecture == "unknown");
    let blob = Blob { digest: raw.digest, size: raw.size };
    (image_or_index && !unknown).then_some(IndexEntry { blob, platform: raw.platform })
}

fn image(
    config: RawDescriptor,
    layers: Vec<RawDescriptor>,
    artifact_type: Option<String>,
    digest: &Digest,
) -> Result<ImageManifest, ManifestError> {
    match config.media_type.as_deref() {
        Some(OCI_CONFIG | DOCKER_CONFIG) | None => {}
        Some(legacy) if LEGACY_CONFIGS.contains(&legacy) && artifact_type.is_none() => {}
        Some(other) => {
            let media_type = excerpt(artifact_type.as_deref().unwrap_or(other));
            return Err(ManifestError::Artifact { media_type });
        }
    }
    if layers.len() > MAX_LAYERS {
        let why = format!("{} layers; at most {MAX_LAYERS} are accepted", layers.len());
        return Err(ManifestError::Malformed { digest: digest.clone(), why });
    }
    let layers = layers.into_iter().map(|raw| layer(raw, digest)).collect::<Result<_, _>>()?;
    Ok(ImageManifest { config: Blob { digest: config.digest, size: config.size }, layers })
}

fn layer(raw: RawDescriptor, manifest: &Digest) -> Result<Layer, ManifestError> {
    if raw.size > MAX_LAYER {
        let why = format!("layer {} of {} bytes; at most {MAX_LAYER} are accepted", raw.digest, raw.size);
        return Err(ManifestError::Malformed { digest: manifest.clone(), why });
    }
    let media_type = raw.media_type.unwrap_or_default();
    if media_type.contains("nondistributable") || media_type.contains(".foreign.") || !raw.urls.is_empty() {
        let url = raw.urls.first().map_or_else(|| "(no address given)".to_owned(), |url| excerpt(url));
        return Err(ManifestError::ForeignLayer { digest: raw.digest, url });
    }
    if !LAYER_TYPES.contains(&media_type.as_str()) {
        return Err(ManifestError::LayerType { digest: raw.digest, media_type: excerpt(&media_type) });
    }
    Ok(Layer { blob: Blob { digest: raw.digest, size: raw.size } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str, content_type: Option<&str>) -> Result<Document, ManifestError> {
        let bytes = bytes::Bytes::copy_from_slice(json.as_bytes());
        let digest = Digest::sha256(&bytes);
        Document::parse(&RawManifest { bytes, digest, content_type: content_type.map(str::to_owned) })
    }

    fn descriptor(media_type: &str, more: &str) -> String {
        let digest = Digest::sha256(media_type.as_bytes());
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":7{more}}}"#)
    }

    fn image_with(layer: &str) -> String {
        format!(r#"{{"schemaVersion":2,"config":{},"layers":[{layer}]}}"#, descriptor(OCI_CONFIG, ""))
    }

    #[test]
    fn every_layer_type_is_accepted() {
        for media_type in LAYER_TYPES {
            let json = image_with(&descriptor(media_type, ""));
            let Ok(Document::Image(image)) = parse(&json, None) else { panic!("{media_type}") };
            assert_eq!(image.layers[0].blob.size, 7);
        }
    }

    #[test]
    fn what_cannot_run_is_refused_by_name() {
        let gzip = descriptor("application/vnd.oci.image.layer.v1.tar+gzip", "");
        let foreign = descriptor(
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            r#","urls":["https://x/y"]"#,
        );
        let helm = descriptor("application/vnd.cncf.helm.config.v1+json", "");
        let negative = gzip.replace(":7", ":-7");
        let escaping =
            r#"{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:../../x","size":1}"#;
        for (json, content_type, part) in [
            ("{}", None, "without a configuration"),
            ("nonsense", None, "malformed"),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#, None, "schema 1"),
            ("{}", Some(SCHEMA1[1]), "schema 1"),
            (r#"{"manifests":[],"layers":[]}"#, None, "an image and an index at once"),
            (r#"{"mediaType":"text/plain"}"#, None, "\"text/plain\", which is neither"),
            (
                &format!(r#"{{"mediaType":"{OCI_INDEX}","manifests":[]}}"#),
                Some(OCI_MANIFEST),
                "one of them lies",
            ),
            (&format!(r#"{{"mediaType":"{OCI_INDEX}"}}"#), None, "an index without manifests"),
            (&image_with(&foreign), None, "foreign layer that may only be fetched from \"https://x/y\""),
            (&image_with(&descriptor("text/plain", "")), None, "cannot be unpacked"),
            (&image_with(&negative), None, "malformed"),
            (&image_with(&gzip.replace(":7", ":18446744073709551615")), None, "at most"),
            (&image_with(escaping), None, "64 lower-case"),
            (
                &format!(r#"{{"config":{helm},"layers":[]}}"#),
                None,
                "artifact of type \"application/vnd.cncf.helm",
            ),
        ] {
            let error = parse(json, content_type).unwrap_err().to_string();
            assert!(error.contains(part), "{json}\n{error}");
        }
    }

    #[test]
    fn docker_and_oci_types_of_one_kind_agree() {
        let layer = descriptor(LAYER_TYPES[1], "");
        for (inside, outside) in [(OCI_MANIFEST, DOCKER_MANIFEST), (DOCKER_MANIFEST, OCI_MANIFEST)] {
            let json = image_with(&layer).replacen('{', &format!(r#"{{"mediaType":"{inside}","#), 1);
            assert!(matches!(parse(&json, Some(outside)), Ok(Document::Image(_))), "{inside} as {outside}");
        }
        let json = format!(r#"{{"mediaType":"{DOCKER_LIST}","manifests":[]}}"#);
        assert!(matches!(parse(&json, Some(OCI_INDEX)), Ok(Document::Index(_))));
    }

    #[test]
    fn a_configuration_may_have_the_type_of_an_early_registry_and_an_artifact_may_not() {
        for legacy in LEGACY_CONFIGS {
            let config = descriptor(legacy, "");
            let json = format!(r#"{{"config":{config},"layers":[{}]}}"#, descriptor(LAYER_TYPES[1], ""));
            assert!(matches!(parse(&json, Some(DOCKER_MANIFEST)), Ok(Document::Image(_))), "{legacy:?}");
            let artifact = json.replacen('{', r#"{"artifactType":"application/x","#, 1);
            let error = parse(&artifact, None).unwrap_err().to_string();
            assert!(error.contains("artifact of type \"application/x\""), "{error}");
            let other = format!(r#"{{"config":{config},"layers":[{}]}}"#, descriptor("text/plain", ""));
            assert!(matches!(parse(&other, None), Err(ManifestError::LayerType { .. })), "{legacy:?}");
        }
    }

    #[test]
    fn attestations_in_an_index_are_no_images() {
        let real =
            descriptor(OCI_MANIFEST, r#","platform":{"os":"linux","architecture":"arm64","variant":"v8"}"#);
        let attestation =
            descriptor(OCI_MANIFEST, r#","platform":{"os":"unknown","architecture":"unknown"}"#);
        let json = format!(r#"{{"manifests":[{attestation},{real}]}}"#);
        let Ok(Document::Index(entries)) = parse(&json, Some(OCI_INDEX)) else { panic!() };
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].platform.as_ref().unwrap().to_string(), "linux/arm64/v8");
    }
}
