//! Entry points to the parsers, for fuzz targets. Every function must return for any input.

use crate::digest::Digest;
use crate::manifest::{Document, Platform, PulledConfig};
use crate::registry::RawManifest;
use crate::unpack;

/// Reads an archive to its end, with the content of its files.
pub fn tar(bytes: &[u8]) {
    unpack::read_tar(bytes);
}

/// Reads one pax extended header.
pub fn pax(bytes: &[u8]) {
    unpack::read_pax(bytes);
}

/// Unpacks a layer, however it is compressed, into the empty folder `root`.
pub fn layer(bytes: &[u8], root: &std::path::Path) {
    unpack::unpack_stream(bytes, root);
}

/// Reads an image manifest or an index.
pub fn manifest(bytes: &[u8]) {
    let digest = Digest::sha256(bytes);
    let bytes = bytes::Bytes::copy_from_slice(bytes);
    let _ = Document::parse(&RawManifest { bytes, digest, content_type: None });
}

/// Reads an image's configuration, as a pull and as the store do.
pub fn image_config(bytes: &[u8]) {
    let digest = Digest::sha256(bytes);
    for layers in 0..3 {
        let _ = PulledConfig::parse(bytes, &digest, layers, Some(&Platform::host()));
    }
    let _ = serde_json::from_slice::<oci_spec::image::ImageConfiguration>(bytes);
}

/// Reads a digest.
pub fn digest(text: &str) {
    let _ = Digest::parse(text);
}

/// Reads a hosts.toml.
pub fn hosts_file(text: &str) {
    crate::mirror::parse_hosts_file(text, std::path::Path::new("/certs.d/r.example/hosts.toml"));
}

/// Reads a `WWW-Authenticate` header.
pub fn challenge(text: &str) {
    let _ = crate::registry::parse_challenge(text);
}
