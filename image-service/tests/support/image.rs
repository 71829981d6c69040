//! Images made of nothing but bytes, as registries hold them.

use std::collections::BTreeMap;
use std::io::Write;

use crisp_image_service::Digest;
use flate2::Compression;
use flate2::write::GzEncoder;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// How a layer travels.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// One layer, in both of its forms.
#[derive(Clone)]
pub struct Layer {
    pub packing: Packing,
    pub diff: Digest,
    pub blob: Vec<u8>,
    pub digest: Digest,
}

impl Layer {
    /// A layer with these files.
    pub fn new(files: &[(&str, &[u8])], packing: Packing) -> Self {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_mode(0o644);
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, path, *content).unwrap();
        }
        Self::of_tar(&archive.into_inner().unwrap(), packing)
    }

    /// A layer of this archive, whatever it is.
    pub fn of_tar(tar: &[u8], packing: Packing) -> Self {
        let blob = match packing {
            Packing::Plain => tar.to_vec(),
            Packing::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(tar).unwrap();
                encoder.finish().unwrap()
            }
            Packing::Zstd => zstd::encode_all(tar, 1).unwrap(),
        };
        let (diff, digest) = (Digest::sha256(tar), Digest::sha256(&blob));
        Self { packing, diff, blob, digest }
    }
}

/// Bytes that do not compress, so that a layer is as large on the wire as it says.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state >> 32).to_le_bytes()[..4]);
    }
    bytes.truncate(length);
    bytes
}

/// A manifest or index with all that it leads to.
#[derive(Clone)]
pub struct Image {
    pub media_type: &'static str,
    pub manifest: Vec<u8>,
    pub digest: Digest,
    pub config: Digest,
    pub layers: Vec<Layer>,
    pub blobs: BTreeMap<Digest, Vec<u8>>,
    /// Manifests that an index leads to.
    pub children: Vec<Image>,
}

impl Image {
    /// An OCI image for this machine.
    pub fn new(layers: Vec<Layer>) -> Self {
        Self::for_platform(layers, OCI_MANIFEST, host_architecture())
    }

    pub fn for_platform(layers: Vec<Layer>, media_type: &'static str, architecture: &str) -> Self {
        let diffs: Vec<_> = layers.iter().map(|l| format!("\"{}\"", l.diff)).collect();
        let config = format!(
            r#"{{"os":"linux","architecture":"{architecture}","config":{{"Cmd":["/bin/x"]}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            diffs.join(",")
        );
        Self::with_config(layers, media_type, config.into_bytes())
    }

    pub fn with_config(layers: Vec<Layer>, media_type: &'static str, config: Vec<u8>) -> Self {
        let docker = media_type == DOCKER_MANIFEST;
        let config_digest = Digest::sha256(&config);
        let described: Vec<_> = layers
            .iter()
            .map(|l| descriptor(layer_type(l.packing, docker), &l.digest, l.blob.len(), ""))
            .collect();
        let config_type = if docker { DOCKER_CONFIG } else { OCI_CONFIG };
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{},"layers":[{}]}}"#,
            descriptor(config_type, &config_digest, config.len(), ""),
            described.join(",")
        );
        let mut blobs: BTreeMap<_, _> = layers.iter().map(|l| (l.digest.clone(), l.blob.clone())).collect();
        blobs.insert(config_digest.clone(), config);
        Self::from_manifest(manifest, media_type, config_digest, layers, blobs)
    }

    pub fn from_manifest(
        manifest: String,
        media_type: &'static str,
        config: Digest,
        layers: Vec<Layer>,
        blobs: BTreeMap<Digest, Vec<u8>>,
    ) -> Self {
        let digest = Digest::sha256(manifest.as_bytes());
        Self {
            media_type,
            manifest: manifest.into_bytes(),
            digest,
            config,
            layers,
            blobs,
            children: Vec::new(),
        }
    }

    /// An index of images, each with its platform.
    pub fn index(images: Vec<(&str, Image)>) -> Self {
        let described: Vec<_> = images
            .iter()
            .map(|(architecture, i)| {
                let platform = format!(r#","platform":{{"os":"linux","architecture":"{architecture}"}}"#);
                descriptor(i.media_type, &i.digest, i.manifest.len(), &platform)
            })
            .collect();
        let json = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#,
            described.join(",")
        );
        let mut index =
            Self::from_manifest(json, OCI_INDEX, Digest::sha256(b""), Vec::new(), BTreeMap::new());
        index.children = images.into_iter().map(|(_, image)| image).collect();
        index
    }
}

pub fn descriptor(media_type: &str, digest: &Digest, size: usize, more: &str) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}{more}}}"#)
}

pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn layer_type(packing: Packing, docker: bool) -> &'static str {
    match (packing, docker) {
        (Packing::Plain, false) => "application/vnd.oci.image.layer.v1.tar",
        (Packing::Gzip, false) => "application/vnd.oci.image.layer.v1.tar+gzip",
        (Packing::Zstd, false) => "application/vnd.oci.image.layer.v1.tar+zstd",
        (Packing::Plain, true) => "application/vnd.docker.image.rootfs.diff.tar",
        (Packing::Gzip, true) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        (Packing::Zstd, true) => "application/vnd.docker.image.rootfs.diff.tar.zstd",
    }
}
