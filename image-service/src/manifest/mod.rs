//! Manifests, indexes and configurations of the OCI image specification and of Docker's schema 2.
//!
//! The documents were verified against their digests before; these parsers check their meaning. They are our
//! own because a failed pull must name the error in the image.

mod config;
mod parse;
mod platform;
mod select;

pub(crate) use self::config::{MAX_CONFIG, MAX_DISTINCT_LAYERS, PulledConfig};
pub(crate) use self::parse::{Document, ImageManifest, Layer};
pub use self::platform::Platform;
pub(crate) use self::select::select;

use crate::digest::Digest;
use crate::excerpt::excerpt;

/// Platforms that an error lists.
const SHOWN: usize = 20;

/// The reason why a manifest, index or configuration cannot be used here. Texts out of the documents are cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the fields are named by the messages")]
pub enum ManifestError {
    #[error(
        "it is a Docker schema 1 manifest, which has been obsolete since 2017 and is not supported; \
         push the image again with a current tool"
    )]
    Schema1,
    #[error("manifest {digest} has media type {media_type:?}, which is neither an image nor an index")]
    MediaType { digest: Digest, media_type: String },
    #[error("manifest {digest} says {inside:?} inside and {outside:?} outside; one of them lies")]
    Contradiction { digest: Digest, inside: String, outside: String },
    #[error("manifest {digest} is malformed: {why}")]
    Malformed { digest: Digest, why: String },
    #[error("it is not a container image but an artifact of type {media_type:?}")]
    Artifact { media_type: String },
    #[error("layer {digest} has media type {media_type:?}, which cannot be unpacked")]
    LayerType { digest: Digest, media_type: String },
    #[error(
        "layer {digest} is a foreign layer that may only be fetched from {url:?}; such images are not supported"
    )]
    ForeignLayer { digest: Digest, url: String },
    #[error("no image for platform {wanted}; there is {}", list(.available))]
    Platform { wanted: Platform, available: Vec<Platform> },
    #[error("index {digest} leads to more indexes, deeper than images are ever nested")]
    TooDeep { digest: Digest },
    #[error("manifest {digest} has {found} bytes, its index says {expected}")]
    Size { digest: Digest, found: u64, expected: u64 },
    #[error("configuration {digest} has {size} bytes; at most {limit} are accepted")]
    ConfigTooLarge { digest: Digest, size: u64, limit: u64 },
    #[error("configuration {digest} is malformed: {why}")]
    Config { digest: Digest, why: String },
    #[error(
        "image {digest} has {layers} different layers; the kernel's overlayfs stacks at most {limit}: \
         rebuild the image with fewer layers"
    )]
    TooManyLayers { digest: Digest, layers: usize, limit: usize },
    #[error("configuration {digest} names {diff_ids} layers, the manifest {layers}")]
    LayerCount { digest: Digest, diff_ids: usize, layers: usize },
}

fn list(platforms: &[Platform]) -> String {
    if platforms.is_empty() {
        return "none for any platform".to_owned();
    }
    let mut shown: Vec<String> = platforms.iter().take(SHOWN).map(|p| excerpt(&p.to_string())).collect();
    if platforms.len() > SHOWN {
        shown.push(format!("and {} more", platforms.len() - SHOWN));
    }
    shown.join(", ")
}
